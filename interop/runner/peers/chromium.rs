//! Chromium as a client: headless, against a page through the server under test, with HTTP/3 proven from its net log.
//!
//! The page asks for the files one after the other before it has loaded, and carries them in itself; this program reads
//! them out of the dumped page. Chromium runs in a root of its own, the unpacked packages, because it starts itself again
//! by the path it was started with.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use aws_lc_rs::digest;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Abilities, Job, Peer, Role, brought, first_line, version_in};
use crate::Outcome;

/// Chromium.
#[derive(Clone, Copy, Debug)]
pub struct Chromium;

/// In the unpacked packages.
const PROGRAM: &str = "/usr/lib/chromium/chromium-headless-shell";
/// Files larger than this make a page too large.
const SIZE_MAX: usize = 1 << 20;
/// Files in more than this number too.
const FILES_MAX: usize = 100;
/// The page's name; the server under test serves it beside the files.
pub const PAGE: &str = "page.html";

fn root() -> Outcome<PathBuf> {
    brought("tests/tools/debian.sh", &["--root", "chromium-headless-shell"])
}

impl Peer for Chromium {
    fn name(&self) -> &'static str {
        "chromium"
    }

    fn abilities(&self) -> Abilities {
        Abilities { roles: [true, false], hq: false, contract: false }
    }

    fn version(&self) -> Outcome<String> {
        let mut command = Command::new(PROGRAM);
        enclose(&mut command, &root()?, None)?.arg("--version");
        Ok(version_in(&first_line(&mut command)?))
    }

    fn commands(&self, job: &Job<'_>) -> Outcome<Vec<Command>> {
        let files = job.case.files;
        // Its hello takes two datagrams. Where all but the first are lost it gives up after four seconds.
        let stubborn = job.case.name != "amplificationlimit";
        let fits = stubborn && files.each <= FILES_MAX && files.sizes.iter().all(|size| *size <= SIZE_MAX);
        if job.role == Role::Server
            || !fits
            || job.case.asked[0] == "multiconnect"
            || matches!(job.case.name, "resumption" | "zerortt")
        {
            return Ok(Vec::new());
        }
        let names: Vec<_> = job.requests.iter().filter_map(|url| url.rsplit('/').next()).collect();
        fs::write(job.www.join(PAGE), page(&names))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("chromium").arg(job.folder).arg(job.downloads).arg(job.certs).arg(job.keys);
        command.arg(job.requests.first().ok_or("no request")?.rsplit_once('/').ok_or("no path")?.0);
        Ok(vec![command])
    }
}

/// Asks for all files in turn; the page has loaded when all are there. Letters above 0xf7ff stand for bytes.
fn page(names: &[&str]) -> String {
    let names = serde_json::to_string(names).unwrap_or_default();
    format!(
        "<!doctype html><title>files</title><body><script>
for (const name of {names}) {{
  const get = new XMLHttpRequest();
  get.open('GET', '/' + name, false);
  get.overrideMimeType('text/plain; charset=x-user-defined');
  get.send();
  const file = document.createElement('pre');
  file.id = name;
  let hex = '';
  for (let at = 0; at < get.responseText.length; at++) {{
    hex += (get.responseText.charCodeAt(at) & 255).toString(16).padStart(2, '0');
  }}
  file.textContent = get.status + ':' + hex;
  document.body.append(file);
}}
</script></body>
"
    )
}

/// Lets `command` run with the unpacked packages as its root, `folder` at the same path as outside, no other change.
fn enclose<'a>(command: &'a mut Command, root: &Path, folder: Option<&Path>) -> Outcome<&'a mut Command> {
    let string = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes());
    let place = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
    let mut binds = Vec::new();
    for path in ["/dev", "/proc", "/etc/hosts"].map(Path::new).into_iter().chain(folder) {
        let inside = place(path);
        if path.is_dir() {
            fs::create_dir_all(&inside)?;
        } else if !inside.exists() {
            fs::create_dir_all(inside.parent().ok_or("no parent")?)?;
            fs::write(&inside, "")?;
        }
        binds.push((string(path)?, string(&inside)?));
    }
    fs::create_dir_all(root.join("tmp"))?;
    if !root.join("lib64").exists() {
        std::os::unix::fs::symlink("usr/lib64", root.join("lib64"))?;
    }
    let root = string(root)?;
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    let prepare = move || {
        let none = std::ptr::null();
        // SAFETY: between fork and exec only system calls are made, with strings that were made before.
        unsafe {
            check(libc::unshare(libc::CLONE_NEWNS))?;
            check(libc::mount(none, c"/".as_ptr(), none, libc::MS_REC | libc::MS_PRIVATE, std::ptr::null()))?;
            for (from, to) in &binds {
                check(libc::mount(from.as_ptr(), to.as_ptr(), none, libc::MS_BIND | libc::MS_REC, std::ptr::null()))?;
            }
            check(libc::chroot(root.as_ptr()))?;
            check(libc::chdir(c"/".as_ptr()))?;
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))
        }
    };
    // SAFETY: `prepare` allocates nothing.
    Ok(unsafe { command.pre_exec(prepare) })
}

/// The client itself: `folder downloads certs keys base-url`.
pub fn run(arguments: &[String]) -> Outcome<()> {
    let [folder, downloads, certs, keys, base] = arguments else { return Err("chromium: five arguments".into()) };
    let folder = Path::new(folder);
    let net_log = folder.join("net-log.json");
    let authority = base.strip_prefix("https://").ok_or("no https URL")?;
    let (host, port) = authority.rsplit_once(':').unwrap_or((authority, "443"));
    let mut command = Command::new(PROGRAM);
    enclose(&mut command, &root()?, Some(folder))?
        .args([
            "--no-sandbox",
            "--no-zygote",
            "--disable-gpu",
            "--dump-dom",
            "--disable-background-networking",
            "--no-proxy-server",
        ])
        .args([
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--disable-features=OptimizationHints,MediaRouter",
        ])
        .arg(format!("--user-data-dir={}", folder.join("profile").display()))
        .arg(format!("--origin-to-force-quic-on={host}:{port}"))
        .arg(format!("--ignore-certificate-errors-spki-list={}", spki(&Path::new(certs).join("cert.pem"))?))
        .arg(format!("--log-net-log={}", net_log.display()))
        .arg("--net-log-capture-mode=Everything")
        .arg(format!("--ssl-key-log-file={}", folder.join("keys.log").display()))
        .arg(format!("{base}/{PAGE}"))
        .env("HOME", folder);
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    // The keys were written where the enclosed program can write.
    let _ = fs::rename(folder.join("keys.log"), keys);
    let page = String::from_utf8_lossy(&output.stdout);
    fs::write(folder.join("page.html"), page.as_bytes())?;
    let stored = store(&page, Path::new(downloads))?;
    let requests = requests_over_quic(&net_log)?;
    if requests <= stored {
        return Err(
            format!("{requests} requests over QUIC in the net log, {stored} files and a page were asked for").into()
        );
    }
    Ok(())
}

/// The files in the page; their number. The page itself is stored too: it is a file of the server.
fn store(page: &str, downloads: &Path) -> Outcome<usize> {
    let mut stored = 0;
    for part in page.split("<pre id=\"").skip(1) {
        let (name, rest) = part.split_once("\">").ok_or("a cut page")?;
        let (text, _) = rest.split_once("</pre>").ok_or("a cut page")?;
        let hex = text.strip_prefix("200:").ok_or_else(|| format!("{name}: {}", text.get(..40).unwrap_or(text)))?;
        let pairs =
            hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair)?, 16).map_err(Into::into));
        fs::write(downloads.join(name), pairs.collect::<Outcome<Vec<u8>>>()?)?;
        stored += 1;
    }
    Ok(stored)
}

/// How many requests the net log says were sent over QUIC.
fn requests_over_quic(net_log: &Path) -> Outcome<usize> {
    let log: serde_json::Value = serde_json::from_slice(&fs::read(net_log)?)?;
    let kind = log["constants"]["logEventTypes"]["HTTP_TRANSACTION_QUIC_SEND_REQUEST_HEADERS"].as_u64();
    let kind = kind.ok_or("this net log knows no requests over QUIC")?;
    let events = log["events"].as_array().ok_or("a net log without events")?;
    Ok(events.iter().filter(|event| event["type"].as_u64() == Some(kind)).count())
}

/// SHA-256 of the certificate's public key, in base64: what Chromium may accept without knowing its CA.
fn spki(file: &Path) -> Outcome<String> {
    let certificate = CertificateDer::from_pem_file(file)?;
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate)?;
    Ok(base64(digest::digest(&digest::SHA256, parsed.public_key().raw).as_ref()))
}

/// RFC 4648 section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            text.push(if place <= group.len() { char::from(LETTERS[bits >> (18 - 6 * place) & 63]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648_section_10() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }

    #[test]
    fn files_are_read_out_of_the_page() {
        let folder = tempfile::tempdir().unwrap();
        let page = "<body><pre id=\"a\">200:00ff41</pre><pre id=\"b\">200:</pre></body>";
        assert_eq!(store(page, folder.path()).unwrap(), 2);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), [0, 255, 65]);
        assert!(store("<pre id=\"a\">404:</pre>", folder.path()).is_err());
    }
}
