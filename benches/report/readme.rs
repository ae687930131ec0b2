//! README's table, made of the last run: `make bench-readme`.

use std::fs;
use std::path::Path;

use super::{Results, plot, print};
use crate::Outcome;

/// Around what this owns in README.
const BEGIN: &str = "<!-- Made by make bench-readme. -->\n";
const END: &str = "<!-- End of what make bench-readme makes. -->\n";
/// The picture, beside the code that makes it.
const PLOT: &str = "benches/chain.svg";

/// Puts the results in `file` into README and the picture beside the benches.
pub fn main(file: &Path) -> Outcome<()> {
    let json = fs::read(file).map_err(|error| format!("{}: {error}; run make bench first", file.display()))?;
    let results: Results = serde_json::from_slice(&json)?;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = root.join("README.md");
    let text = replaced(&fs::read_to_string(&readme)?, &section(&results))?;
    fs::write(&readme, text)?;
    fs::write(root.join(PLOT), plot::svg(&results))?;
    println!("README.md and {PLOT} show the run of {}", results.run.date);
    Ok(())
}

fn section(results: &Results) -> String {
    let run = &results.run;
    let notes: String = run.notes.iter().map(|note| format!("- {note}\n")).collect();
    format!(
        "{}, {}, kernel {}, {}:\n\n```sh\n{}\n```\n\n{}\n\n\
         Median [least..most]; in brackets how many times theirs ours is, round by round.\n\n{notes}\n\
         ![Where ours stands beside each rival]({PLOT})\n",
        run.date,
        run.cpu,
        run.kernel,
        run.network,
        run.command,
        print::markdown(results)
    )
}

/// `readme` with `section` between the marks.
fn replaced(readme: &str, section: &str) -> Outcome<String> {
    let (before, rest) = readme.split_once(BEGIN).ok_or("README.md has no place for the table")?;
    let (_, after) = rest.split_once(END).ok_or("README.md does not say where the table ends")?;
    Ok(format!("{before}{BEGIN}{section}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_changes() {
        let readme = format!("before\n{BEGIN}old\n{END}after\n");
        let once = replaced(&readme, "new\n").expect("a place");
        assert_eq!(once, format!("before\n{BEGIN}new\n{END}after\n"));
        assert_eq!(replaced(&once, "new\n").expect("a place"), once);
        assert!(replaced("no marks", "new").is_err());
    }
}
