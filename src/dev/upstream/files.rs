//! Static files of one folder, streamed from disk.
//!
//! Never leaves the folder: dot segments are refused and links that lead out of it are as good as missing.

use std::io::{self, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::header::{ALLOW, LOCATION};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use tokio::fs::File;
use tokio::io::AsyncSeekExt;

use super::body::{AnyBody, FileBody, empty};
use super::representation::Representation;
use super::routes::{plain, with_field};

/// What a path leads to.
enum Found {
    File(File, Representation),
    /// A folder named without its last slash.
    Folder,
    Nothing,
}

/// A folder to serve from.
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Opens `root`.
    ///
    /// # Errors
    /// When it is no folder that can be read.
    pub fn new(root: &Path) -> io::Result<Self> {
        let root = root.canonicalize()?;
        std::fs::read_dir(&root)?;
        Ok(Self { root })
    }

    /// Answers a request for a file; `None` when there is none.
    pub async fn answer<B>(&self, request: &Request<B>) -> Option<Response<AnyBody>> {
        match self.find(request.uri()).await {
            Found::Nothing => None,
            Found::Folder => Some(redirect(request.uri())),
            Found::File(..) if !matches!(*request.method(), Method::GET | Method::HEAD) => {
                Some(with_field(plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n"), ALLOW, "GET, HEAD"))
            }
            Found::File(file, representation) => Some(send(file, &representation, request).await),
        }
    }

    async fn find(&self, uri: &Uri) -> Found {
        let Some(relative) = decode(uri.path()) else { return Found::Nothing };
        let mut path = self.root.join(&relative);
        if relative.as_os_str().is_empty() || uri.path().ends_with('/') {
            path.push("index.html");
        }
        let Ok(path) = tokio::fs::canonicalize(path).await else { return Found::Nothing };
        if !path.starts_with(&self.root) {
            return Found::Nothing;
        }
        let Ok(file) = File::open(&path).await else { return Found::Nothing };
        match file.metadata().await {
            Ok(metadata) if metadata.is_file() => Found::File(file, represent(&path, &metadata)),
            Ok(metadata) if metadata.is_dir() => Found::Folder,
            _ => Found::Nothing,
        }
    }
}

async fn send<B>(file: File, representation: &Representation, request: &Request<B>) -> Response<AnyBody> {
    let mut range = None;
    let mut response = representation.respond(request.method(), request.headers(), |part| {
        range = Some(part);
        empty()
    });
    if let Some(range) = range {
        let mut file = file;
        if let Err(error) = file.seek(SeekFrom::Start(range.start)).await {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n"));
        }
        *response.body_mut() = FileBody::new(file, range.end - range.start).boxed_unsync();
    }
    response
}

/// The tag changes with inode, size and modification time in nanoseconds: as strong as a file system can tell.
fn represent(path: &Path, metadata: &std::fs::Metadata) -> Representation {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    Representation {
        length: metadata.len(),
        etag: format!("\"{seconds:x}.{nanos:x}-{:x}-{:x}\"", metadata.len(), metadata.ino()),
        modified: metadata.modified().ok(),
        content_type: mime_guess::from_path(path).first_or_octet_stream().to_string(),
    }
}

fn redirect(uri: &Uri) -> Response<AnyBody> {
    // Two leading slashes would name another host (RFC 3986 section 4.2).
    let path = format!("/{}/", uri.path().trim_start_matches('/'));
    let target = uri.query().map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
    with_field(plain(StatusCode::PERMANENT_REDIRECT, Bytes::new()), LOCATION, &target)
}

/// A URL path as a relative file path; `None` for anything that could lead elsewhere.
fn decode(path: &str) -> Option<PathBuf> {
    let mut decoded = PathBuf::new();
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        let segment = percent_decode(segment)?;
        if segment == ".." || segment == "." || segment.contains(['/', '\\', '\0']) {
            return None;
        }
        decoded.push(segment);
    }
    Some(decoded)
}

/// RFC 3986 section 2.1; `None` when it is malformed or not UTF-8.
fn percent_decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex(rest.next()?)? << 4 | hex(rest.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_spelling_of_a_path_leads_out_of_the_folder() {
        for path in [
            "/../etc/passwd",
            "/a/../../b",
            "/%2e%2e/b",
            "/a%2f..%2fb",
            "/a/%2E./b",
            "/..%5cb",
            "/%00",
            "/%zz",
            "/%f",
            "/%ff",
        ] {
            assert_eq!(decode(path), None, "{path}");
        }
        assert_eq!(decode("/a//b%20c.txt"), Some(PathBuf::from("a/b c.txt")));
        assert_eq!(decode("/"), Some(PathBuf::new()));
    }
}
