//! An endpoint: a UDP socket, the connections on it, and the handles to both.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quinn::{AsyncUdpSocket, ClientConfig, ConnectError, ConnectionError, EndpointConfig, ServerConfig, VarInt};
use tokio::sync::Notify;

use super::connection::{Due, Handle};
use super::driver::{Core, Driver, lost};
use super::incoming::{Connecting, Incoming};
use crate::clock;

/// What handles and the task share.
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) due: Arc<Due>,
    /// A peer asked for a connection, or nobody will any more.
    pub(super) incoming: Notify,
    /// The last connection is gone.
    pub(super) idle: Notify,
    /// Handles; the task's own reference is not one.
    pub(super) handles: AtomicUsize,
}

/// A QUIC endpoint. Clones are the same one; it ends when the last of them and of its connections is gone.
pub struct Endpoint(Arc<Shared>);

impl Endpoint {
    /// An endpoint on `socket`. Without a server configuration it can only dial. `spawn` is given the task that drives it.
    ///
    /// # Errors
    /// When the socket does not know its address.
    pub fn new(
        config: EndpointConfig,
        server: Option<ServerConfig>,
        socket: Arc<dyn AsyncUdpSocket>,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
    ) -> io::Result<Self> {
        let due = Arc::new(Due::default());
        let core = Mutex::new(Core::new(config, server, socket)?);
        let (incoming, idle, handles) = (Notify::new(), Notify::new(), AtomicUsize::new(1));
        let shared = Arc::new(Shared { core, due, incoming, idle, handles });
        spawn(Box::pin(Driver(Arc::clone(&shared))));
        Ok(Self(shared))
    }

    /// The next connection that a peer asks for; none when the endpoint is closed or its socket lost.
    pub async fn accept(&self) -> Option<Incoming> {
        loop {
            let asked = {
                let mut core = self.0.core.lock();
                if let Some(proto) = core.incoming.pop_front() {
                    drop(core);
                    return Some(Incoming::new(self.clone(), proto));
                }
                if core.is_over() {
                    return None;
                }
                self.0.incoming.notified()
            };
            asked.await;
        }
    }

    /// Dials `address`; the peer's certificate must be for `name`.
    ///
    /// # Errors
    /// When the configuration, the address or the name cannot be used, or the endpoint is closed.
    pub fn connect_with(
        &self,
        config: ClientConfig,
        address: SocketAddr,
        name: &str,
    ) -> Result<Connecting, ConnectError> {
        let core = &mut *self.0.core.lock();
        if core.is_over() {
            return Err(ConnectError::EndpointStopping);
        }
        let address = match (address, core.is_ipv6) {
            (SocketAddr::V6(_), false) => return Err(ConnectError::InvalidRemoteAddress(address)),
            (SocketAddr::V4(v4), true) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
            (address, _) => address,
        };
        let (handle, proto) = core.proto.connect(clock::now(), config, address, name)?;
        Ok(Connecting::new(self.enter(core, handle, proto)))
    }

    pub(super) fn establish(
        &self,
        incoming: quinn_proto::Incoming,
        config: Option<Arc<ServerConfig>>,
    ) -> Result<Connecting, ConnectionError> {
        let core = &mut *self.0.core.lock();
        if core.lost {
            core.proto.ignore(incoming);
            return Err(lost());
        }
        let mut response = Vec::new();
        match core.proto.accept(incoming, clock::now(), &mut response, config) {
            Ok((handle, proto)) => Ok(Connecting::new(self.enter(core, handle, proto))),
            Err(error) => {
                if let Some(transmit) = error.response {
                    core.respond(&transmit, &response);
                }
                Err(error.cause)
            }
        }
    }

    fn enter(&self, core: &mut Core, handle: quinn_proto::ConnectionHandle, proto: quinn_proto::Connection) -> Handle {
        let connection = core.enter(handle, proto, &self.0.due);
        // It is held before it can be due.
        let held = Handle::new(&connection);
        let state = &mut *connection.lock();
        match &core.closed {
            Some((code, reason)) => connection.close(state, *code, reason.clone()),
            None => connection.wake(state),
        }
        held
    }

    pub(super) fn refuse(&self, incoming: quinn_proto::Incoming) {
        let core = &mut *self.0.core.lock();
        core.refuse(incoming);
    }

    pub(super) fn retry(&self, incoming: quinn_proto::Incoming) {
        let core = &mut *self.0.core.lock();
        let mut response = Vec::new();
        match core.proto.retry(incoming, &mut response) {
            Ok(transmit) => core.respond(&transmit, &response),
            Err(error) => core.refuse(error.into_incoming()),
        }
    }

    /// Goes on with `socket`. What still comes to the one before is read until something came to this one.
    ///
    /// # Errors
    /// When it does not know its address; everything stays as it was then.
    pub fn rebind(&self, socket: Arc<dyn AsyncUdpSocket>) -> io::Result<()> {
        let core = &mut *self.0.core.lock();
        core.rebind(socket)?;
        for connection in core.connections() {
            let state = &mut *connection.lock();
            state.proto.local_address_changed();
            connection.wake(state);
        }
        // It has to register with the new socket, even if there is no connection.
        self.0.due.wake();
        Ok(())
    }

    /// Its address.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.core.lock().local_addr()
    }

    /// Closes all connections and takes no more.
    pub fn close(&self, code: VarInt, reason: &[u8]) {
        let core = &mut *self.0.core.lock();
        let reason = Bytes::copy_from_slice(reason);
        core.closed = Some((code, reason.clone()));
        for connection in core.connections() {
            let state = &mut *connection.lock();
            connection.close(state, code, reason.clone());
        }
        self.0.incoming.notify_waiters();
    }

    /// Waits until all connections are gone: closed, and the time over in which late packets of theirs may come.
    pub async fn wait_idle(&self) {
        loop {
            let idle = {
                let core = self.0.core.lock();
                if core.is_idle() {
                    return;
                }
                self.0.idle.notified()
            };
            idle.await;
        }
    }
}

impl Clone for Endpoint {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.due.wake();
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&self.local_addr().ok()).finish()
    }
}
