//! Configuration files against what they must become: `valid` ones are accepted, the errors of `invalid` ones are
//! those in the `.txt` beside them (`BLESS=1` rewrites these), the examples are complete, and no text panics.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;
use trunkline::ca::{self, Subject};
use trunkline::config::{
    AdminListen, EdgeConfig, Errors, HostPattern, LogFormat, OriginConfig, OriginPop, PopAddress, UpstreamScheme,
    UpstreamTarget,
};

/// The files that the configurations name: certificates and keys, a folder, an empty file.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().expect("a temporary folder"));
        let dir = files.dir();
        ca::init(dir).expect("a CA");
        let gateway = Subject::Gateway { name: "gw-1".into(), services: vec!["web".into()] };
        let site = Subject::Site { hosts: vec!["localhost".into()] };
        for subject in [Subject::Pop { name: "pop-a".into() }, Subject::Pop { name: "pop-b".into() }, gateway, site] {
            ca::issue(dir, dir, &subject, 1).expect("a certificate");
        }
        let both = ["tunnel-ca.pem", "site-ca.pem"].map(|name| fs::read_to_string(dir.join(name)).expect(name));
        fs::write(dir.join("two-cas.pem"), both.concat()).expect("a file");
        fs::write(dir.join("empty.pem"), "").expect("a file");
        fs::create_dir(dir.join("folder")).expect("a folder");
        std::os::unix::fs::symlink(".", dir.join("certs")).expect("a link");
        files
    }

    fn dir(&self) -> &Path {
        self.0.path()
    }

    fn edge(&self, text: &str) -> Result<EdgeConfig, Errors> {
        EdgeConfig::from_str(text, "edge.toml", self.dir())
    }

    fn origin(&self, text: &str) -> Result<OriginConfig, Errors> {
        OriginConfig::from_str(text, "origin.toml", self.dir())
    }

    /// The errors of a file whose name says which binary it is for.
    fn errors(&self, path: &Path) -> Option<String> {
        let text = fs::read_to_string(path).expect("a case");
        let errors = match is_edge(path) {
            true => self.edge(&text).err(),
            false => self.origin(&text).err(),
        };
        errors.map(|errors| format!("{errors}\n").replace(&self.dir().display().to_string(), "$DIR"))
    }
}

fn is_edge(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("edge"))
}

fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &str) -> String {
    fs::read_to_string(tree(path)).expect(path)
}

fn cases(folder: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(tree(folder)).expect(folder).map(|entry| entry.expect("an entry").path());
    let mut found: Vec<_> = found.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    found.sort();
    assert!(!found.is_empty(), "no cases in {folder}");
    found
}

#[test]
fn valid_files_and_examples_are_accepted() {
    let files = Files::new();
    for folder in ["tests/config/valid", "examples/single", "examples/two-pops", "examples/all-keys"] {
        for path in cases(folder) {
            assert_eq!(files.errors(&path), None, "{}", path.display());
        }
    }
}

#[test]
fn invalid_files_get_the_errors_beside_them() {
    let files = Files::new();
    let mut wrong = Vec::new();
    for path in cases("tests/config/invalid") {
        let shown = files.errors(&path).unwrap_or_else(|| "accepted\n".to_owned());
        let golden = path.with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, &shown).expect("a golden file");
        }
        if fs::read_to_string(&golden).unwrap_or_default() != shown {
            wrong.push(format!("{}\n{shown}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{} differ from their .txt; they are now\n\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn all_errors_of_a_file_are_reported_at_once() {
    let files = Files::new();
    for path in cases("tests/config/invalid") {
        let text = fs::read_to_string(&path).expect("a case");
        let count = match is_edge(&path) {
            true => files.edge(&text).expect_err("wrong").count(),
            false => files.origin(&text).expect_err("wrong").count(),
        };
        assert!(count >= 2, "{}: all errors are reported at once, not {count}", path.display());
    }
}

/// `{:?}` shows every field of the checked structs, so that a new one cannot be forgotten here.
#[test]
fn the_examples_with_all_keys_are_the_defaults() {
    let files = Files::new();
    let all = files.edge(&text("examples/all-keys/edge.toml")).expect("an example");
    let shortest = files.edge(&text("examples/single/edge.toml")).expect("an example");
    assert_eq!(format!("{all:#?}"), format!("{shortest:#?}"));
    let all = files.origin(&text("examples/all-keys/origin.toml")).expect("an example");
    let mut shortest = files.origin(&text("examples/single/origin.toml")).expect("an example");
    (shortest.pops, shortest.pops_wanted) = (all.pops.clone(), 2);
    assert_eq!(format!("{all:#?}"), format!("{shortest:#?}"));
}

/// A key that does not exist, put into each table, makes the error name all that do.
#[test]
fn the_examples_with_all_keys_have_every_key() {
    let files = Files::new();
    for (name, tables) in [("edge", 9), ("origin", 7)] {
        let text = text(&format!("examples/all-keys/{name}.toml"));
        let probed = text.lines().fold("zzzzzzzz = 0\n".to_owned(), |all, line| {
            let probe = if line.starts_with('[') { "zzzzzzzz = 0\n" } else { "" };
            format!("{all}{line}\n{probe}")
        });
        let errors = match name {
            "edge" => files.edge(&probed).expect_err("unknown keys").to_string(),
            _ => files.origin(&probed).expect_err("unknown keys").to_string(),
        };
        let allowed: Vec<&str> = errors.lines().filter_map(|line| line.trim().strip_prefix("= allowed: ")).collect();
        assert_eq!(allowed.len(), tables, "{errors}");
        for key in allowed.iter().flat_map(|keys| keys.split(", ")) {
            let is_there = |line: &str| {
                let line = line.trim_start_matches(['#', ' ']);
                let inside = line.trim_start_matches('[').strip_prefix(key);
                inside.is_some_and(|rest| rest.starts_with([' ', ']', '=', '.'])) || line.contains(&format!(".{key}]"))
            };
            assert!(text.lines().any(is_there), "{name}.toml has no `{key}`");
        }
    }
}

#[test]
fn what_is_typed_is_what_is_checked() {
    let files = Files::new();
    let edge = files.edge(&text("tests/config/valid/edge-everything.toml")).expect("valid");
    assert_eq!((edge.workers, edge.listen.len(), edge.certificates.len(), edge.services.len()), (3, 3, 2, 2));
    assert!(edge.early_data);
    assert_eq!(edge.admin, Some(AdminListen::Unix(files.dir().join("run/admin.sock"))));
    assert_eq!(
        edge.trusted.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "2001:db8::/32", "192.0.2.7/32"]
    );
    assert_eq!((edge.limits.connections_max, edge.limits.stream_window), (16, 65_536));
    assert_eq!(edge.limits.total_timeout.map(|timeout| timeout.as_secs()), Some(5_400));
    let limits = (edge.limits.requests_per_address_max, edge.limits.connections_per_address_rate);
    assert_eq!(limits, (Some(256), Some(50)));
    assert_eq!(edge.tunnel.limits.retention_max, 1 << 30);
    assert_eq!(edge.tunnel.identity.ca, files.dir().join("two-cas.pem"));
    let hosts = ["www.example.com", "example.org", "192.0.2.7", "[2001:db8::7]"].map(String::from);
    let [www, org, v4, v6] = hosts;
    let wanted = [HostPattern::Exact(www), HostPattern::Wildcard(org), HostPattern::Exact(v4), HostPattern::Exact(v6)];
    assert_eq!(edge.services.first().expect("a service").hosts, wanted);
    assert_eq!(edge.services.last().expect("a service").hosts, [HostPattern::Any]);
    let pops: Vec<_> = edge.pops.iter().map(|pop| (pop.tunnel.to_string(), pop.http3.as_ref())).collect();
    assert_eq!(pops[0], ("pop-c.example.net:7844".into(), Some(&PopAddress { host: "2001:db8::7".into(), port: 443 })));
    assert_eq!(pops[1], ("192.0.2.7:7844".into(), None));
    assert!(!edge.http3.enabled && edge.http3.alt_svc_max_age.is_zero() && edge.drain.timeout.is_zero());
    assert_eq!((edge.log.format, edge.log.access), (LogFormat::Json, false));
}

#[test]
fn upstreams_and_pops_keep_their_order_and_protocols() {
    let files = Files::new();
    let origin = files.origin(&text("tests/config/valid/origin-everything.toml")).expect("valid");
    assert_eq!((origin.pops_wanted, origin.tunnel.links), (3, 8));
    let pop = |pop: &OriginPop| (pop.address.host.clone(), pop.address.port, pop.domain.clone());
    let pops: Vec<_> = origin.pops.iter().map(pop).collect();
    let fra = Some("fra".to_owned());
    let expected =
        [("pop-a.example.net".into(), 7844, None), ("192.0.2.7".into(), 1, fra), ("2001:db8::7".into(), 65_535, None)];
    assert_eq!(pops, expected);
    let web = origin.services.first().expect("a service");
    let schemes: Vec<_> = web.upstreams.iter().map(|upstream| upstream.scheme).collect();
    assert_eq!(schemes, [UpstreamScheme::Http, UpstreamScheme::Https, UpstreamScheme::H2c, UpstreamScheme::Http]);
    let last = web.upstreams.last().expect("an upstream");
    assert_eq!(last.target, UpstreamTarget::Unix(files.dir().join("run/app.sock")));
    assert_eq!((web.tls_name.as_deref(), web.limits.queue_max), (Some("internal.example.net"), 0));
}

#[test]
fn a_file_that_cannot_be_read_is_one_error() {
    let files = Files::new();
    let shown = |path: &str| EdgeConfig::load(&files.dir().join(path)).expect_err("unreadable").to_string();
    assert!(shown("nowhere.toml").contains("nowhere.toml: cannot be read: No such file"), "{}", shown("nowhere.toml"));
    assert!(shown("folder").contains("cannot be read"), "{}", shown("folder"));
    fs::write(files.dir().join("latin1.toml"), b"name = \"\xe4\"").expect("a file");
    assert!(shown("latin1.toml").contains("UTF-8"), "{}", shown("latin1.toml"));
    fs::write(files.dir().join("huge.toml"), "#".repeat((1 << 20) + 1)).expect("a file");
    assert!(shown("huge.toml").contains("larger than 1 MiB"), "{}", shown("huge.toml"));
}

#[test]
fn a_hostile_file_ends_in_errors_too() {
    for piece in ["[", "{a=", "\"", "a.", "a=1\n", "x = [\n", "'''", "[[a]]\n", "[a.a]\n[b"] {
        let text = format!("name = {}", piece.repeat(1_000_000 / piece.len()));
        let errors = EdgeConfig::from_str(&text, "f", Path::new("/nowhere")).expect_err(piece);
        assert!(errors.to_string().len() < 1_000_000, "{piece}: the output has a bound");
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let files = Files::new();
    let path = files.dir().join("edge.toml");
    fs::write(&path, text("examples/single/edge.toml")).expect("a file");
    let config = EdgeConfig::load(&path).expect("valid");
    assert_eq!(config.tunnel.identity.cert, files.dir().join("pop-a.pem"));
}

/// What could steer a terminal.
const ESCAPE: char = '\u{1b}';

/// Pieces of real files in any order: deeper into the walk than random characters get.
fn soup() -> impl Strategy<Value = String> {
    let pieces = [
        "name",
        "listen",
        "tls",
        "tunnel",
        "service",
        "limits",
        "hosts",
        "pops",
        "upstreams",
        "log",
        "links",
        "cert",
        "key",
        " = ",
        ".",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "\"",
        "'''",
        ",",
        "\n",
        "\r\n",
        "\t",
        "#",
        "0",
        "-1",
        "0x",
        "1e400",
        "\"10s\"",
        "\"[::]:443\"",
        "\"*.x\"",
        "true",
        "1979-05-27",
        "\"\\u0000\"",
        "é",
        "\u{feff}",
        "\u{1b}",
        "\"site.pem\"",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_is_a_configuration_or_errors(text in prop_oneof![soup(), "\\PC{0,80}", any::<String>()]) {
        for errors in [EdgeConfig::from_str(&text, "f", Path::new("/nowhere")).err(), OriginConfig::from_str(&text, "f", Path::new("/nowhere")).err()] {
            let errors = errors.expect("no text made of these is complete");
            prop_assert!(errors.count() > 0 && errors.to_string().contains("error"));
            prop_assert!(!errors.to_string().chars().any(|c| c == ESCAPE));
        }
    }

    #[test]
    fn a_damaged_file_is_a_configuration_or_errors(at in any::<prop::sample::Index>(), put in "\\PC{0,3}", cut in 0usize..5) {
        let mut chars: Vec<char> = include_str!("../examples/all-keys/edge.toml").chars().collect();
        let at = at.index(chars.len());
        let end = (at + cut).min(chars.len());
        chars.splice(at..end, put.chars());
        let text: String = chars.into_iter().collect();
        if let Err(errors) = EdgeConfig::from_str(&text, "f", Path::new("/nowhere")) {
            prop_assert!(errors.count() > 0 && errors.to_string().contains("f:"));
        }
    }
}
