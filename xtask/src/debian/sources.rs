//! The machine's own package sources, rewritten for a private apt root.
//!
//! Both forms are read (`*.sources` in deb822 and classic `*.list`); what is not needed or would bind the source to the
//! machine's own architecture is left out. The places that packages come from are never spelled in this tree.

use std::fs;
use std::path::{Path, PathBuf};

/// Which suites of the machine's sources are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Suites<'a> {
    /// Those of the release of this code name: itself, its updates and its security fixes. Not backports, whose kernels
    /// are other kernels.
    Release(&'a str),
    /// Its backports, which lie where the release itself lies.
    Backports(&'a str),
    /// Another release, which lies where the machine's own does.
    Other {
        /// The machine's.
        own: &'a str,
        /// The one that is wanted.
        wanted: &'a str,
    },
}

impl std::fmt::Display for Suites<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Suites::Release(codename) => write!(f, "Debian {codename}"),
            Suites::Backports(codename) => write!(f, "Debian {codename}-backports"),
            Suites::Other { wanted, .. } => write!(f, "Debian {wanted}"),
        }
    }
}

impl Suites<'_> {
    /// The suite to take in place of one that the machine has.
    fn instead_of(self, suite: &str) -> Option<String> {
        match self {
            Suites::Release(codename) => of_release(suite, codename).then(|| suite.to_string()),
            Suites::Backports(codename) => {
                (suite == codename).then(|| format!("{codename}-backports"))
            }
            Suites::Other { own, wanted } => (suite == own).then(|| wanted.to_string()),
        }
    }
}

/// The sources as the text of one deb822 file and one classic file, fit for any architecture.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// Text for a file `*.sources`.
    pub(crate) deb822: String,
    /// Text for a file `*.list`.
    pub(crate) classic: String,
}

impl Sources {
    /// Reads what the machine has under `etc`, usually `/etc/apt`, keeping the suites that are wanted.
    pub(crate) fn of_machine(etc: &Path, suites: Suites<'_>) -> Sources {
        let mut files = vec![etc.join("sources.list")];
        let listed = fs::read_dir(etc.join("sources.list.d"))
            .into_iter()
            .flatten();
        let mut more: Vec<PathBuf> = listed
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        more.sort();
        files.extend(more);
        let mut sources = Sources::default();
        for file in files {
            let Ok(text) = fs::read_to_string(&file) else {
                continue;
            };
            match file.extension().and_then(|extension| extension.to_str()) {
                Some("sources") => sources.deb822.push_str(&deb822(&text, suites)),
                Some("list") => sources.classic.push_str(&classic(&text, suites)),
                _ => {}
            }
        }
        sources
    }

    /// No source was found.
    pub(crate) fn is_empty(&self) -> bool {
        self.deb822.trim().is_empty() && self.classic.trim().is_empty()
    }
}

/// The stanzas of a deb822 file that name binary packages of such suites.
fn deb822(text: &str, suites: Suites<'_>) -> String {
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    text.split("\n\n")
        .filter_map(|stanza| deb822_stanza(stanza, suites))
        .collect()
}

fn deb822_stanza(stanza: &str, wanted: Suites<'_>) -> Option<String> {
    let mut kept = String::from("Types: deb\n");
    let mut in_dropped_field = false;
    let (mut has_suite, mut has_uri) = (false, false);
    for line in stanza.lines().filter(|line| !line.trim().is_empty()) {
        if line.starts_with([' ', '\t']) {
            if !in_dropped_field {
                kept.push_str(line);
                kept.push('\n');
            }
            continue;
        }
        let (name, value) = line.split_once(':')?;
        let value = value.trim();
        in_dropped_field = false;
        match name.to_ascii_lowercase().as_str() {
            "enabled" if matches!(value, "no" | "false" | "0") => return None,
            "types" if !value.split_whitespace().any(|kind| kind == "deb") => return None,
            "types" | "architectures" | "enabled" => in_dropped_field = true,
            "suites" => {
                let suites: Vec<String> = value
                    .split_whitespace()
                    .filter_map(|suite| wanted.instead_of(suite))
                    .collect();
                has_suite = !suites.is_empty();
                kept.push_str(&format!("Suites: {}\n", suites.join(" ")));
            }
            field => {
                has_uri |= field == "uris" && !value.starts_with("cdrom:");
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    (has_suite && has_uri).then(|| kept + "\n")
}

/// The lines of a classic file that name binary packages of such suites.
fn classic(text: &str, suites: Suites<'_>) -> String {
    text.lines()
        .filter_map(|line| classic_line(line, suites))
        .collect()
}

fn classic_line(line: &str, suites: Suites<'_>) -> Option<String> {
    let rest = line.trim().strip_prefix("deb")?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    let suite = suites.instead_of(suite)?;
    if uri.starts_with("cdrom:") {
        return None;
    }
    let options: Vec<&str> = options
        .split_whitespace()
        .filter(|option| !option.starts_with("arch"))
        .collect();
    let options = if options.is_empty() {
        String::new()
    } else {
        format!("[{}] ", options.join(" "))
    };
    let components: Vec<&str> = words.take_while(|word| !word.starts_with('#')).collect();
    Some(format!(
        "deb {options}{uri} {suite} {}\n",
        components.join(" ")
    ))
}

fn of_release(suite: &str, codename: &str) -> bool {
    let suite = suite.trim_end_matches('/');
    let plain = suite.strip_suffix("/updates").unwrap_or(suite);
    ["", "-updates", "-security"]
        .iter()
        .any(|part| plain.strip_suffix(part) == Some(codename))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stanza_loses_its_architecture_and_other_releases() {
        let text = "# about\nTypes: deb deb-src\nURIs: mirror://x\nSuites: bookworm bookworm-updates bookworm-backports\n\
                    Components: main\nArchitectures: amd64\n i386\nSigned-By:\n  key\n  more\n";
        assert_eq!(
            deb822(text, Suites::Release("bookworm")),
            "Types: deb\nURIs: mirror://x\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By:\n  key\n  more\n\n"
        );
    }

    #[test]
    fn source_and_disabled_and_foreign_stanzas_are_left_out() {
        assert_eq!(
            deb822(
                "Types: deb-src\nURIs: mirror://x\nSuites: bookworm\n",
                Suites::Release("bookworm")
            ),
            ""
        );
        assert_eq!(
            deb822(
                "Types: deb\nEnabled: no\nURIs: mirror://x\nSuites: bookworm\n",
                Suites::Release("bookworm")
            ),
            ""
        );
        assert_eq!(
            deb822(
                "Types: deb\nURIs: mirror://x\nSuites: nodistro\n",
                Suites::Release("bookworm")
            ),
            ""
        );
    }

    #[test]
    fn two_stanzas_stay_two() {
        let text = "Types: deb\nURIs: mirror://x\nSuites: bookworm\n\n\nTypes: deb\nURIs: mirror://y\nSuites: bookworm-security\n";
        assert_eq!(
            deb822(text, Suites::Release("bookworm"))
                .matches("Types: deb\n")
                .count(),
            2
        );
    }

    #[test]
    fn a_classic_line_keeps_its_key_and_loses_its_architecture() {
        let text = "deb [arch=amd64 signed-by=/k.gpg] mirror://x bookworm main contrib # note\n\
                    deb-src mirror://x bookworm main\n#deb mirror://x bookworm main\ndeb cdrom:[x]/ bookworm main\n\
                    deb mirror://x bookworm/updates main\n";
        assert_eq!(
            classic(text, Suites::Release("bookworm")),
            "deb [signed-by=/k.gpg] mirror://x bookworm main contrib\ndeb mirror://x bookworm/updates main\n"
        );
    }

    #[test]
    fn backports_lie_beside_the_release_and_nowhere_else() {
        let backports = Suites::Backports("bookworm");
        let text = "Types: deb\nURIs: mirror://x\nSuites: bookworm bookworm-updates\nComponents: main\n\n\
                    Types: deb\nURIs: mirror://y\nSuites: bookworm-security\nComponents: main\n";
        assert_eq!(
            deb822(text, backports),
            "Types: deb\nURIs: mirror://x\nSuites: bookworm-backports\nComponents: main\n\n"
        );
        assert_eq!(
            classic("deb mirror://x bookworm main\n", backports),
            "deb mirror://x bookworm-backports main\n"
        );
    }

    #[test]
    fn another_release_takes_the_place_of_the_machines_own() {
        let other = Suites::Other {
            own: "bookworm",
            wanted: "trixie",
        };
        let text = "deb mirror://x bookworm main\ndeb mirror://x bookworm-updates main\n";
        assert_eq!(classic(text, other), "deb mirror://x trixie main\n");
    }
}
