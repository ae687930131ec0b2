//! The other end of the admin listener: what `edge tunnels`, `edge drain`, `origin status` and `origin drain` ask a
//! running process. Called by the binaries' commands only.

use std::fmt::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::rt::{Read, Write as WriteIo};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpStream, UnixStream};

use crate::config::AdminListen;
use crate::task::{Shutdown, Tasks};

/// For the whole conversation: longer than the longest command takes.
const TIMEOUT: Duration = Duration::from_secs(14);
/// Longest answer, bytes.
const ANSWER_MAX: usize = 16 << 20;

/// Why a running process could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The configuration has no admin listener.
    #[error("the configuration has no `admin` address to ask: add admin = \"127.0.0.1:9180\" or \"unix:/path\"")]
    NoAdmin,
    /// Nobody answers there.
    #[error("{0}: is the process running?")]
    Connect(#[from] std::io::Error),
    /// The answer is not HTTP, or was cut.
    #[error("no answer from the admin listener: {0}")]
    Http(String),
    /// The answer says no.
    #[error("the admin listener answered {0}")]
    Status(u16),
    /// The process says why not.
    #[error("{0}")]
    Refused(String),
}

/// What a running process knows of itself, as text for people or as JSON.
///
/// # Errors
/// When nobody answers in time, or the answer is not a success.
pub fn status(listen: Option<&AdminListen>, json: bool) -> Result<String, AskError> {
    let body = ask(listen, Method::GET, "/status")?;
    let status = parse(&body)?;
    Ok(if json { format!("{status:#}\n") } else { as_text(&status) })
}

/// Starts the drain of a running process, as SIGTERM does.
///
/// # Errors
/// When nobody answers in time, or the answer is not a success.
pub fn drain(listen: Option<&AdminListen>) -> Result<String, AskError> {
    ask(listen, Method::POST, "/drain").map(|_| "draining\n".to_owned())
}

/// Moves the tunnels of a running origin to the PoP `to` (name or address), or back to the order of its configuration.
///
/// # Errors
/// When nobody answers in time, or the tunnels stay where they are; the message says why.
pub fn migrate(listen: Option<&AdminListen>, to: Option<&str>, json: bool) -> Result<String, AskError> {
    let path = match to {
        // Names and addresses need no escaping; anything else must not become another request.
        Some(to) if to.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte)) => {
            format!("/migrate?to={}", to.replace('[', "%5B").replace(']', "%5D"))
        }
        Some(to) => return Err(AskError::Refused(format!("`{to}` is neither the name nor the address of a PoP"))),
        None => "/migrate/auto".to_owned(),
    };
    let moved = parse(&ask(listen, Method::POST, &path)?)?;
    if json {
        return Ok(format!("{moved:#}\n"));
    }
    let mut out = match (to, moved.get("millis")) {
        (Some(to), Some(millis)) => format!("{to} is held after {millis} ms\n"),
        _ => "back to the order of the configuration\n".to_owned(),
    };
    write_pops(&mut out, &moved);
    Ok(out)
}

/// Sends one request to the admin listener at `address` and returns the body.
///
/// # Errors
/// When nobody answers in time, or the answer is not a success.
pub async fn ask_at(address: SocketAddr, method: Method, path: &str) -> Result<Bytes, AskError> {
    let asked = async { converse(TcpStream::connect(address).await?, method, path).await };
    tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
}

fn late() -> AskError {
    AskError::Http("none in time".into())
}

/// Sends one request to the admin listener of a running process and returns the body.
fn ask(listen: Option<&AdminListen>, method: Method, path: &str) -> Result<Bytes, AskError> {
    let listen = listen.ok_or(AskError::NoAdmin)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match listen {
            AdminListen::Tcp(address) => ask_at(*address, method, path).await,
            AdminListen::Unix(socket) => {
                let asked = async { converse(UnixStream::connect(socket).await?, method, path).await };
                tokio::time::timeout(TIMEOUT, asked).await.unwrap_or_else(|_| Err(late()))
            }
        }
    })
}

async fn converse<S>(stream: S, method: Method, path: &str) -> Result<Bytes, AskError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    TokioIo<S>: Read + WriteIo,
{
    let http = |error: hyper::Error| AskError::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    Tasks::new(Shutdown::default()).spawn(async move {
        // Its error is the request's too.
        let _ = connection.await;
    });
    let request = Request::builder().method(method).uri(path).header("host", "admin").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| AskError::Http(error.to_string()))?;
    let response = sender.send_request(request).await.map_err(http)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|error| AskError::Http(error.to_string()))?.to_bytes();
    let reason = || parse(&body).ok()?.get("error")?.as_str().map(ToOwned::to_owned);
    match status.is_success() {
        true => Ok(body),
        false => Err(reason().map_or(AskError::Status(status.as_u16()), AskError::Refused)),
    }
}

fn parse(body: &[u8]) -> Result<Value, AskError> {
    serde_json::from_slice(body).map_err(|error| AskError::Http(error.to_string()))
}

/// The answer to `/status` for people: a line about the process, then one per tunnel in columns.
fn as_text(status: &Value) -> String {
    let mut out = String::new();
    let name = ["pop", "gateway"].iter().find_map(|key| status.get(key)).and_then(Value::as_str).unwrap_or("-");
    let draining = if status.get("draining") == Some(&Value::Bool(true)) { ", draining" } else { "" };
    let retained = status.get("retained_bytes").and_then(Value::as_u64).unwrap_or(0);
    let tunnels = status.get("tunnels").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{name}{draining}: {} tunnels, {retained} bytes kept for resuming", tunnels.len());
    if !tunnels.is_empty() {
        let _ =
            writeln!(out, "{:<16} {:<24} {:<11} {:>9} {:>10}  NOTES", "LINK", "ADDRESS", "STATE", "IN FLIGHT", "RTT");
    }
    for tunnel in tunnels {
        let text = |key: &str| tunnel.get(key).and_then(Value::as_str).unwrap_or("-").to_owned();
        let number = |key: &str| tunnel.get(key).and_then(Value::as_u64).unwrap_or(0);
        let peer = text("link");
        let rtt = format!("{:.1} ms", Duration::from_micros(number("rtt_us")).as_secs_f64() * 1e3);
        let (address, state, in_flight) = (text("address"), text("state"), number("in_flight"));
        let line = format!("{peer:<16} {address:<24} {state:<11} {in_flight:>9} {rtt:>10}  {}", notes(tunnel));
        let _ = writeln!(out, "{}", line.trim_end());
    }
    write_pops(&mut out, status);
    push_events(&mut out, status.get("events").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default());
    out
}

/// What makes a tunnel dear.
fn notes(tunnel: &Value) -> String {
    let is = |key: &str| tunnel.get(key) == Some(&Value::Bool(true));
    let mut notes: Vec<String> = ["busy", "ejected"].into_iter().filter(|key| is(key)).map(ToOwned::to_owned).collect();
    let lost = tunnel.get("lost_permille").and_then(Value::as_u64).unwrap_or(0);
    if lost > 0 {
        notes.push(format!("{}.{} % lost", lost / 10, lost % 10));
    }
    notes.join(", ")
}

/// The last events, a line each.
fn push_events(out: &mut String, events: &[Value]) {
    if !events.is_empty() {
        let _ = writeln!(
            out,
            "\n{:<27} {:<12} {:>5}  {:<33} {:>9} {:>11}",
            "AT", "EVENT", "TIMES", "FROM -> TO", "MS", "BYTES AGAIN"
        );
    }
    for event in events {
        let text = |key: &str| event.get(key).and_then(Value::as_str).unwrap_or("");
        let number = |key: &str| event.get(key).and_then(Value::as_u64).unwrap_or(0);
        let way =
            if text("to").is_empty() { text("from").to_owned() } else { format!("{} -> {}", text("from"), text("to")) };
        let (at, name, times) = (text("at"), text("event"), number("times"));
        let (millis, again, why) = (number("millis"), number("bytes_again"), text("why"));
        let line = format!("{at:<27} {name:<12} {times:>5}  {way:<33} {millis:>9} {again:>11}  {why}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The PoPs of an origin in columns, if there are any.
fn write_pops(out: &mut String, status: &Value) {
    let pops = status.get("pops").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !pops.is_empty() {
        let _ = writeln!(out, "{:<16} {:<32} {:<6} {:>5}", "POP", "ADDRESS", "ROLE", "LINKS");
    }
    for pop in pops {
        let text = |key: &str| pop.get(key).and_then(Value::as_str).unwrap_or("-");
        let ready = pop.get("ready").and_then(Value::as_u64).unwrap_or(0);
        let chosen = if pop.get("chosen") == Some(&Value::Bool(true)) { "  chosen" } else { "" };
        let _ = writeln!(out, "{:<16} {:<32} {:<6} {ready:>5}{chosen}", text("pop"), text("address"), text("role"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_status_is_a_table_for_people() {
        let status = json!({"pop": "pop-a", "draining": true, "retained_bytes": 7, "tunnels": [
            {"link": "gw-1#2", "address": "127.0.0.1:1", "state": "Ready", "in_flight": 3, "rtt_us": 1500,
             "busy": true, "ejected": false, "lost_permille": 15},
        ], "events": [
            {"at": "2026-11-22T23:07:03.000001Z", "event": "resume", "times": 2, "from": "gw-1#1", "to": "gw-1#2", "millis": 151,
             "bytes_again": 1200, "why": ""},
        ]});
        let text = as_text(&status);
        let expected = "pop-a, draining: 1 tunnels, 7 bytes kept for resuming\n\
            LINK             ADDRESS                  STATE       IN FLIGHT        RTT  NOTES\n\
            gw-1#2           127.0.0.1:1              Ready               3     1.5 ms  busy, 1.5 % lost\n\n\
            AT                          EVENT        TIMES  FROM -> TO                               MS BYTES AGAIN\n\
            2026-11-22T23:07:03.000001Z resume           2  gw-1#1 -> gw-1#2                        151        1200\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn the_pops_of_an_origin_show_their_roles_and_the_operators_choice() {
        let status = json!({"gateway": "gw-1", "pops": [
            {"pop": "pop-a", "address": "a.test:1", "role": "Warm", "ready": 2, "chosen": false},
            {"pop": null, "address": "b.test:1", "role": "Held", "ready": 0, "chosen": true},
        ]});
        let expected = "gw-1: 0 tunnels, 0 bytes kept for resuming\n\
            POP              ADDRESS                          ROLE   LINKS\n\
            pop-a            a.test:1                         Warm       2\n\
            -                b.test:1                         Held       0  chosen\n";
        assert_eq!(as_text(&status), expected);
    }

    #[test]
    fn what_is_no_name_is_not_asked_for() {
        let error = migrate(None, Some("a&b"), false).unwrap_err().to_string();
        assert!(error.contains("`a&b`"), "{error}");
    }

    #[test]
    fn without_an_admin_address_the_error_says_what_to_add() {
        let error = ask(None, Method::GET, "/status").unwrap_err().to_string();
        assert!(error.contains("admin = "), "{error}");
    }
}
