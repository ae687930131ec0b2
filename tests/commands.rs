//! The real binaries, as far as they do not serve: `check`, `ca`, arguments and exit codes.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const EDGE: &str = env!("CARGO_BIN_EXE_edge");
const ORIGIN: &str = env!("CARGO_BIN_EXE_origin");

fn run(binary: &str, dir: &Path, args: &str) -> Output {
    Command::new(binary).args(args.split_whitespace()).current_dir(dir).output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("an exit code")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The folder of an example with its certificates, made by the commands in its README.
fn example(name: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    for entry in fs::read_dir(&source).expect("an example") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    let readme = fs::read_to_string(source.join("README.md")).expect("a README");
    for line in readme.lines().filter_map(|line| line.strip_prefix("edge ca ")) {
        let made = run(EDGE, dir.path(), &format!("ca {line}"));
        assert_eq!(code(&made), 0, "{line}: {}", stderr(&made));
    }
    dir
}

#[test]
fn the_commands_of_the_example_make_files_that_pass_the_check() {
    let dir = example("two-pops");
    for (binary, file) in [(EDGE, "edge-a.toml"), (EDGE, "edge-b.toml"), (ORIGIN, "origin.toml")] {
        let checked = run(binary, dir.path(), &format!("check -c {file}"));
        assert_eq!(code(&checked), 0, "{file}: {}", stderr(&checked));
        assert!(String::from_utf8_lossy(&checked.stdout).starts_with(&format!("{file}: ok")), "{file}");
    }
}

#[test]
fn a_wrong_configuration_is_exit_code_3_with_every_error() {
    let dir = example("two-pops");
    fs::write(dir.path().join("wrong.toml"), "nam = 1\nlistn = 2\n").expect("a file");
    for binary in [EDGE, ORIGIN] {
        for command in ["check", "run"] {
            let checked = run(binary, dir.path(), &format!("{command} -c wrong.toml"));
            assert_eq!(code(&checked), 3);
            assert!(checked.stdout.is_empty());
            assert!(stderr(&checked).contains("wrong.toml:1:1: unknown key `nam`"), "{}", stderr(&checked));
            assert!(stderr(&checked).contains("wrong.toml:2:1: unknown key `listn`"), "{}", stderr(&checked));
        }
        assert_eq!(code(&run(binary, dir.path(), "check -c nowhere.toml")), 3);
    }
}

#[test]
fn wrong_arguments_are_exit_code_2() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let wrong = [
        "",
        "serve",
        "run",
        "check",
        "run -c",
        "ca",
        "ca issue d",
        "ca issue d --pop",
        "ca issue d --gateway g",
        "ca issue d --pop p --site x",
        "ca issue d --pop p --service s",
        "ca issue d --site x --service s",
        "ca issue d --pop p --days 0",
        "ca issue d --pop p --days 99999",
        "ca issue d --pop p --days x",
    ];
    for args in wrong {
        let ended = run(EDGE, dir.path(), args);
        assert_eq!(code(&ended), 2, "{args}: {}", stderr(&ended));
    }
    assert_eq!(code(&run(ORIGIN, dir.path(), "ca init d")), 2);
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
}

#[test]
fn help_documents_the_exit_codes() {
    for binary in [EDGE, ORIGIN] {
        for args in ["--help", "-h"] {
            let help = run(binary, Path::new("/"), args);
            assert_eq!(code(&help), 0);
            assert!(String::from_utf8_lossy(&help.stdout).contains("3  wrong configuration"));
        }
    }
}

#[test]
fn a_certificate_is_never_overwritten() {
    let dir = example("two-pops");
    let before = fs::read(dir.path().join("certs/pop-a.key")).expect("a key");
    let again = run(EDGE, dir.path(), "ca issue certs --pop pop-a");
    assert_eq!(code(&again), 1);
    assert!(stderr(&again).contains("is there already"), "{}", stderr(&again));
    assert_eq!(fs::read(dir.path().join("certs/pop-a.key")).expect("a key"), before);
    let elsewhere = run(EDGE, dir.path(), "ca issue certs --pop pop-a --out new --days 30");
    assert_eq!(code(&elsewhere), 0, "{}", stderr(&elsewhere));
    assert_eq!(String::from_utf8_lossy(&elsewhere.stdout), "new/pop-a.pem\nnew/pop-a.key\n");
}

#[test]
fn without_a_ca_nothing_is_issued() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let issued = run(EDGE, dir.path(), "ca issue . --pop pop-a");
    assert_eq!(code(&issued), 1);
    assert!(stderr(&issued).contains("edge ca init"), "{}", stderr(&issued));
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 0);
}
