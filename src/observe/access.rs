//! The access log: one line per request, made of its [`Record`] at its end and queued in [`super::lines`].
//!
//! Called when a record is dropped, on the thread that carried the request. The fields and their order are the same in
//! both forms; README.md describes them. `termination` says which side ended the request and how far it had come.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lines::{Lines, Source};
use super::log::Form;
use super::record::{Cause, Record, Times};
use super::{escape, timestamp};
use crate::fault::Side;

/// Bytes that most lines fit in, so that a line is one allocation.
const LINE_SIZE: usize = 768;

/// Where access lines go, and in which form. Cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    lines: Lines,
    form: Form,
    name: Arc<str>,
    side: Side,
    name_key: &'static str,
    peer_key: &'static str,
}

impl AccessLog {
    /// The access log of the PoP `pop`; requests go to gateways.
    pub fn edge(lines: Lines, form: Form, pop: &str) -> Self {
        Self { lines, form, name: pop.into(), side: Side::Edge, name_key: "pop", peer_key: "gateway" }
    }

    /// The access log of the gateway `gateway`; exchanges come from PoPs.
    pub fn origin(lines: Lines, form: Form, gateway: &str) -> Self {
        Self { lines, form, name: gateway.into(), side: Side::Gateway, name_key: "gateway", peer_key: "pop" }
    }

    pub(super) fn write(&self, record: &Record, times: &Times, cause: Cause) {
        let line = self.line(record, times, cause, SystemTime::now());
        self.lines.push(&line, Source::Access);
    }

    fn line(&self, record: &Record, times: &Times, cause: Cause, now: SystemTime) -> Vec<u8> {
        let mut line = Line::begin(self.form, now);
        let opening = &record.opening;
        line.value("method", Some(opening.method.as_str().as_bytes()));
        line.value("authority", Some(opening.authority.as_str().as_bytes()));
        line.value("path", Some(opening.path.as_str().as_bytes()));
        line.number("status", record.status.map(|status| status.as_u16().into()));
        line.termination(record, cause);
        line.value("side", cause.side(self.side).map(|side| side.name().as_bytes()));
        line.value("request_id", opening.request_id.as_ref().map(|id| id.as_bytes()));
        line.client(record);
        line.value("protocol", Some(opening.wire.name().as_bytes()));
        line.value("service", record.service_name().map(str::as_bytes));
        line.value(self.name_key, Some(self.name.as_bytes()));
        line.value(self.peer_key, record.peer.as_ref().map(|peer| peer.as_bytes()));
        line.number("attempts", Some(record.attempts.into()));
        line.number("bytes_in", Some(record.received_bytes()));
        line.number("bytes_out", Some(record.sent));
        line.micros("total_us", Some(times.total));
        line.micros("request_us", times.request);
        line.micros("dispatch_us", times.dispatch);
        line.micros("head_us", times.head);
        line.micros("upstream_us", record.upstream);
        line.end()
    }
}

/// A line being written: `key=value` pairs, or a JSON object.
struct Line {
    form: Form,
    bytes: Vec<u8>,
}

impl Line {
    fn begin(form: Form, now: SystemTime) -> Self {
        let mut bytes = Vec::with_capacity(LINE_SIZE);
        if form == Form::Json {
            bytes.extend_from_slice(b"{\"timestamp\":\"");
        }
        timestamp::push(&mut bytes, now);
        bytes.extend_from_slice(match form {
            Form::Json => b"\",\"level\":\"INFO\",\"target\":\"access\"",
            Form::Text => b"  INFO access:",
        });
        Self { form, bytes }
    }

    fn end(mut self) -> Vec<u8> {
        if self.form == Form::Json {
            self.bytes.push(b'}');
        }
        self.bytes.push(b'\n');
        self.bytes
    }

    fn key(&mut self, key: &str) {
        let (before, after): (&[u8], &[u8]) = match self.form {
            Form::Json => (b",\"", b"\":"),
            Form::Text => (b" ", b"="),
        };
        self.bytes.extend_from_slice(before);
        self.bytes.extend_from_slice(key.as_bytes());
        self.bytes.extend_from_slice(after);
    }

    fn absent(&mut self) {
        self.bytes.extend_from_slice(match self.form {
            Form::Json => b"null",
            Form::Text => b"-",
        });
    }

    fn value(&mut self, key: &str, value: Option<&[u8]>) {
        self.key(key);
        match (value, self.form) {
            (None, _) => self.absent(),
            (Some(value), Form::Json) => self.quoted(value, escape::push_json),
            (Some(value), Form::Text) if is_plain(value) => self.bytes.extend_from_slice(value),
            (Some(value), Form::Text) => self.quoted(value, escape::push_text),
        }
    }

    fn quoted(&mut self, value: &[u8], push: fn(&mut Vec<u8>, &[u8])) {
        self.bytes.push(b'"');
        push(&mut self.bytes, value);
        self.bytes.push(b'"');
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        self.key(key);
        match number {
            Some(number) => timestamp::push_number(&mut self.bytes, number),
            None => self.absent(),
        }
    }

    fn micros(&mut self, key: &str, time: Option<Duration>) {
        self.number(key, time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)));
    }

    /// `ok`, `client_gone@<phase>`, `forced@<phase>` or `<error type>@<stage>`: all plain words.
    fn termination(&mut self, record: &Record, cause: Cause) {
        let (what, place) = match cause {
            Cause::Complete => ("ok", None),
            Cause::ClientGone => ("client_gone", Some(record.phase().name())),
            Cause::Forced => ("forced", Some(record.phase().name())),
            Cause::Fault(fault) => (fault.error_type(), Some(fault.stage.name())),
        };
        self.key("termination");
        let quote: &[u8] = if self.form == Form::Json { b"\"" } else { b"" };
        self.bytes.extend_from_slice(quote);
        self.bytes.extend_from_slice(what.as_bytes());
        if let Some(place) = place {
            self.bytes.push(b'@');
            self.bytes.extend_from_slice(place.as_bytes());
        }
        self.bytes.extend_from_slice(quote);
    }

    fn client(&mut self, record: &Record) {
        self.key("client");
        let quote = if self.form == Form::Json { "\"" } else { "" };
        let mut client = record.opening.client;
        client.set_ip(client.ip().to_canonical());
        // Writing to a Vec never fails.
        let _ = write!(self.bytes, "{quote}{client}{quote}");
    }
}

/// Needs no quotes in a text line.
fn is_plain(value: &[u8]) -> bool {
    !value.is_empty() && value != b"-" && value.iter().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(byte))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use http::uri::Authority;
    use http::{HeaderValue, Method, StatusCode};

    use super::super::lines::BUFFER_MAX;
    use super::super::record::tests::{Watched, opening};
    use super::*;
    use crate::fault::{Fault, Kind, Stage};

    fn micros(number: u64) -> Duration {
        Duration::from_micros(number)
    }

    fn times(head: Option<Duration>) -> Times {
        Times { total: micros(1234), request: Some(micros(11)), dispatch: Some(micros(2)), head }
    }

    fn access(form: Form) -> AccessLog {
        AccessLog::edge(Lines::start(std::io::sink(), BUFFER_MAX).unwrap(), form, "pop-a")
    }

    fn served(watched: &Watched) -> Record {
        let mut record = watched.record();
        record.routed(0);
        record.dispatched(&"gw-1".into());
        record.upstream_took(micros(700));
        record.head(StatusCode::OK);
        record.received().add(3);
        record.sent(512);
        record
    }

    fn line(form: Form, record: &Record, head: Option<Duration>, cause: Cause) -> String {
        let moment = UNIX_EPOCH + micros(1_795_388_823_000_001);
        String::from_utf8(access(form).line(record, &times(head), cause, moment)).unwrap()
    }

    #[test]
    fn a_served_request_as_text() {
        let watched = Watched::new(Form::Text);
        assert_eq!(
            line(Form::Text, &served(&watched), Some(micros(900)), Cause::Complete),
            "2026-11-22T23:07:03.000001Z  INFO access: method=GET authority=www.example.com path=/index.html?a=b \
             status=200 termination=ok side=- request_id=4f2a client=192.0.2.7:5000 protocol=h3 service=web pop=pop-a \
             gateway=gw-1 attempts=1 bytes_in=3 bytes_out=512 total_us=1234 request_us=11 dispatch_us=2 head_us=900 \
             upstream_us=700\n"
        );
    }

    #[test]
    fn a_served_request_as_json() {
        let watched = Watched::new(Form::Json);
        assert_eq!(
            line(Form::Json, &served(&watched), Some(micros(900)), Cause::Complete),
            "{\"timestamp\":\"2026-11-22T23:07:03.000001Z\",\"level\":\"INFO\",\"target\":\"access\",\
             \"method\":\"GET\",\"authority\":\"www.example.com\",\"path\":\"/index.html?a=b\",\"status\":200,\
             \"termination\":\"ok\",\"side\":null,\"request_id\":\"4f2a\",\"client\":\"192.0.2.7:5000\",\
             \"protocol\":\"h3\",\"service\":\"web\",\"pop\":\"pop-a\",\"gateway\":\"gw-1\",\"attempts\":1,\
             \"bytes_in\":3,\"bytes_out\":512,\"total_us\":1234,\"request_us\":11,\"dispatch_us\":2,\
             \"head_us\":900,\"upstream_us\":700}\n"
        );
    }

    #[test]
    fn a_request_refused_early_has_marks_for_what_is_absent() {
        let watched = Watched::new(Form::Text);
        let record = watched.record();
        let cause = Cause::Fault(Fault::new(Stage::Route, Side::Client, Kind::DestinationNotFound));
        let text = line(Form::Text, &record, None, cause);
        assert!(text.contains("status=- termination=destination_not_found@route side=client"), "{text}");
        assert!(text.contains("service=- pop=pop-a gateway=- attempts=0"), "{text}");
        let json: serde_json::Value = serde_json::from_str(&line(Form::Json, &record, None, cause)).unwrap();
        assert!(json["status"].is_null() && json["service"].is_null() && json["head_us"].is_null());
        assert_eq!(json["termination"], "destination_not_found@route");
    }

    #[test]
    fn a_hostile_client_cannot_forge_fields_or_lines() {
        let watched = Watched::new(Form::Text);
        let mut hostile = opening("/");
        hostile.request_id = Some(HeaderValue::from_bytes(b"x status=200 \"\\\t\xff").unwrap());
        hostile.path = "/\u{fc}\u{202e}\u{9b}2J".parse().unwrap();
        hostile.authority = Authority::from_static("a:80");
        hostile.method = Method::from_bytes(b"M'`|~").unwrap();
        let record = watched.observer.record(hostile, crate::clock::now());
        let text = line(Form::Text, &record, None, Cause::ClientGone);
        assert!(text.contains(r#" request_id="x status=200 \"\\\x09\xff" client="#), "{text}");
        assert!(text.contains(r#" path="/\xc3\xbc\xe2\x80\xae\xc2\x9b2J" "#), "{text}");
        assert!(text.trim_end().bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{text}");
        let json = line(Form::Json, &record, None, Cause::ClientGone);
        assert!(!json.trim_end().chars().any(char::is_control), "{json}");
        let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(parsed["request_id"], "x status=200 \"\\\t\\xff");
        assert_eq!(parsed["path"], "/\u{fc}\u{202e}\u{9b}2J");
    }

    #[test]
    fn a_value_that_looks_like_absence_is_quoted() {
        let watched = Watched::new(Form::Text);
        let mut opening = opening("/");
        opening.request_id = Some(HeaderValue::from_static("-"));
        let record = watched.observer.record(opening, crate::clock::now());
        assert!(line(Form::Text, &record, None, Cause::Complete).contains("request_id=\"-\""));
    }

    #[test]
    fn at_the_origin_the_peer_is_the_pop() {
        let watched = Watched::new(Form::Text);
        let lines = Lines::start(std::io::sink(), BUFFER_MAX).unwrap();
        let access = AccessLog::origin(lines, Form::Text, "gw-1");
        let mut record = watched.record();
        record.dispatched(&"pop-b".into());
        let line = access.line(&record, &times(None), Cause::Forced, SystemTime::now());
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains("gateway=gw-1 pop=pop-b") && line.contains("forced@head side=gateway"), "{line}");
    }
}
