//! The sockets of the admin listener: TCP, or a unix socket that only this user may open.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::AdminListen;

/// Connections that the kernel holds for us.
const BACKLOG: i32 = 64;

/// A bound admin listener. Dropping it removes a unix socket's file.
pub struct AdminSocket(Kind);

enum Kind {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: SocketFile },
}

impl AdminSocket {
    /// Binds `listen`. Errors are those of the system; `AddrInUse` if a living process has the unix socket or something
    /// that is no socket has its name. Must be called within a runtime.
    pub async fn bind(listen: &AdminListen) -> io::Result<Self> {
        match listen {
            AdminListen::Tcp(address) => Ok(Self(Kind::Tcp(TcpListener::bind(address).await?))),
            AdminListen::Unix(path) => {
                let listener = bind_unix(path)?;
                let file = SocketFile::of(path)?;
                Ok(Self(Kind::Unix { listener, file }))
            }
        }
    }

    /// The bound address as the ready line has it: `ip:port` or `unix:/path`.
    pub fn address(&self) -> String {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().map(|address| address.to_string()).unwrap_or_default(),
            Kind::Unix { file, .. } => format!("unix:{}", file.path.display()),
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match &self.0 {
            Kind::Tcp(listener) => Ok(Stream::Tcp(listener.accept().await?.0)),
            Kind::Unix { listener, .. } => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // The file gets the descriptor's mode when it is bound, so there is no moment at which others may open it.
    let own = Permissions::from_mode(0o600);
    File::from(OwnedFd::from(socket.try_clone()?)).set_permissions(own.clone())?;
    socket.bind(&SockAddr::unix(path)?)?;
    // Where a system ignores the descriptor's mode this closes the file before anyone is listened to.
    fs::set_permissions(path, own)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(OwnedFd::from(socket).into())
}

/// Removes a socket that a dead process left. One that answers, and any other kind of file, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !kind.is_socket() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "the file is no socket"));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// The name of a bound unix socket, removed at the end unless another process has taken it over.
struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: Self::identity(path)? })
    }

    fn identity(path: &Path) -> io::Result<(u64, u64)> {
        let metadata = fs::symlink_metadata(path)?;
        Ok((metadata.dev(), metadata.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::identity(&self.path).is_ok_and(|identity| identity == self.identity) {
            // Nothing can be done about a file that does not go; the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// An accepted connection.
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(folder: &tempfile::TempDir) -> (PathBuf, AdminListen) {
        let path = folder.path().join("admin.sock");
        (path.clone(), AdminListen::Unix(path))
    }

    #[tokio::test]
    async fn a_unix_socket_is_for_its_owner_only_and_goes_with_the_listener() {
        let folder = tempfile::tempdir().unwrap();
        let (path, listen) = unix(&folder);
        let socket = AdminSocket::bind(&listen).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.address(), format!("unix:{}", path.display()));
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_process_is_taken_over() {
        let folder = tempfile::tempdir().unwrap();
        let (path, listen) = unix(&folder);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        AdminSocket::bind(&listen).await.unwrap();
    }

    #[tokio::test]
    async fn a_living_socket_and_a_file_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, listen) = unix(&folder);
        let living = AdminSocket::bind(&listen).await.unwrap();
        assert_eq!(AdminSocket::bind(&listen).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert!(path.exists());
        drop(living);
        fs::write(&path, "precious").unwrap();
        assert_eq!(AdminSocket::bind(&listen).await.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn the_end_of_one_process_leaves_its_successors_socket() {
        let folder = tempfile::tempdir().unwrap();
        let (path, listen) = unix(&folder);
        let old = AdminSocket::bind(&listen).await.unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let _new = AdminSocket::bind(&listen).await.unwrap();
        drop(old);
        assert!(path.exists());
    }
}
