//! Exit codes of both binaries, the one place where they are given numbers.
//!
//! Called by the mains; `--help` prints [`HELP`].

use std::fmt::Display;
use std::process::ExitCode;

use crate::signal::Ended;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or drained after SIGTERM or SIGINT: every request in flight was finished.
    Ok,
    /// Failed at run time, or a command could not do its work.
    Failed,
    /// Wrong arguments; clap itself exits with this code.
    Usage,
    /// The configuration is wrong; every error is on stderr.
    Config,
    /// An address could not be bound. Unlike a wrong configuration this may pass by itself.
    Bind,
    /// Ended by force: a second signal, or the drain timeout passed with requests in flight.
    Forced,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Config => 3,
            Self::Bind => 4,
            Self::Forced => 130,
        }
    }
}

impl From<Ended> for Exit {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Drained => Self::Ok,
            Ended::Deadline | Ended::Forced => Self::Forced,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// Prints what a command of `program` came to: text on stdout as it is, or why it failed on stderr.
pub fn print<T: Display, E: Display>(program: &str, result: Result<T, E>) -> Exit {
    match result {
        Ok(text) => {
            print!("{text}");
            Exit::Ok
        }
        Err(error) => {
            eprintln!("{program}: {error}");
            Exit::Failed
        }
    }
}

/// The codes, for `--help`.
pub const HELP: &str = "\
Exit codes:
    0  done, or drained after a signal
    1  failed at run time
    2  wrong arguments
    3  wrong configuration (every error is printed)
    4  an address could not be bound
  130  ended by force: a second signal, or requests were left at the drain timeout";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        for exit in [Exit::Ok, Exit::Failed, Exit::Usage, Exit::Config, Exit::Bind, Exit::Forced] {
            let code = format!("{:>5}  ", exit.code());
            assert!(HELP.lines().any(|line| line.starts_with(&code)), "{exit:?}");
        }
    }
}
