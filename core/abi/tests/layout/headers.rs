//! The C side: compiles expressions against the headers of `libxen-dev` and reads their values.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const INCLUDE: &str = "/usr/include/xen";
const NEEDED: &str = "this test needs the packages `libxen-dev gcc libc6-dev`";

const COMMON: &[&str] = &[
    "xen.h",
    "errno.h",
    "event_channel.h",
    "features.h",
    "grant_table.h",
    "hvm/hvm_op.h",
    "hvm/params.h",
    "io/console.h",
    "io/xs_wire.h",
    "memory.h",
    "physdev.h",
    "platform.h",
    "sched.h",
    "sysctl.h",
    "domctl.h",
    "vcpu.h",
    "version.h",
    "xsm/flask_op.h",
];

/// Whose ABI: both have 64-bit pointers, so any 64-bit host can lay both out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arch {
    Arm,
    X86_64,
}

impl Arch {
    fn macro_name(self) -> &'static str {
        match self {
            Self::Arm => "__aarch64__",
            Self::X86_64 => "__x86_64__",
        }
    }

    fn own_headers(self) -> &'static [&'static str] {
        match self {
            Self::Arm => &["arch-arm/smccc.h", "device_tree_defs.h"],
            Self::X86_64 => &["arch-x86/hvm/start_info.h", "hvm/hvm_vcpu.h"],
        }
    }
}

/// One number that Rust and C must agree on.
pub(crate) struct Fact {
    pub(crate) what: String,
    pub(crate) c: String,
    pub(crate) rust: i64,
}

impl Fact {
    pub(crate) fn new(what: impl Into<String>, c: impl Into<String>, rust: i64) -> Self {
        Self {
            what: what.into(),
            c: c.into(),
            rust,
        }
    }
}

/// The headers, seen as one architecture sees them.
pub(crate) struct Headers {
    arch: Arch,
    dir: PathBuf,
    prologue: String,
    /// Names of all object-like macros.
    pub(crate) macros: BTreeSet<String>,
}

impl Headers {
    pub(crate) fn open(arch: Arch) -> Self {
        assert!(
            Path::new(INCLUDE).join("xen.h").exists(),
            "{INCLUDE}/xen.h is missing: {NEEDED}"
        );
        let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "-");
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("layout-{arch:?}-{thread}"));
        fs::create_dir_all(&dir).expect("make a directory for the C program");
        // One header includes the others by the path that they have in Xen's own tree.
        let public = dir.join("public");
        if !public.exists() {
            std::os::unix::fs::symlink(INCLUDE, &public).expect("link the headers");
        }

        // The C library's headers come first: they must see the machine that we run on.
        let mut prologue = String::from(
            "#include <stddef.h>\n#include <stdint.h>\n#include <stdio.h>\n\
             #undef __x86_64__\n#undef __aarch64__\n#define __XEN_TOOLS__ 1\n",
        );
        writeln!(prologue, "#define {} 1", arch.macro_name()).unwrap();
        for header in COMMON.iter().chain(arch.own_headers()) {
            writeln!(prologue, "#include \"public/{header}\"").unwrap();
        }

        let mut headers = Self {
            arch,
            dir,
            prologue,
            macros: BTreeSet::new(),
        };
        let source = headers.write("macros.c", &headers.prologue);
        let listing = headers.run(headers.compiler().args(["-E", "-dM"]).arg(source));
        headers.macros = listing
            .lines()
            .filter_map(|line| line.strip_prefix("#define "))
            .filter_map(|line| line.split_whitespace().next())
            .filter(|name| !name.contains('('))
            .map(str::to_owned)
            .collect();
        headers
    }

    pub(crate) fn is_arm(&self) -> bool {
        self.arch == Arch::Arm
    }

    /// What differs, one line each.
    pub(crate) fn disagreements(&self, facts: &[Fact]) -> Vec<String> {
        let mut text = self.prologue.clone();
        text.push_str("int main(void) {\n");
        for fact in facts {
            writeln!(text, "    printf(\"%lld\\n\", (long long)({}));", fact.c).unwrap();
        }
        text.push_str("    return 0;\n}\n");
        let source = self.write("values.c", &text);
        let program = self.dir.join("values");
        self.run(self.compiler().arg(source).arg("-o").arg(&program));
        let printed = self.run(&mut Command::new(&program));
        let values: Vec<i64> = printed
            .lines()
            .map(|line| line.parse().expect("the C program prints numbers"))
            .collect();
        assert_eq!(
            values.len(),
            facts.len(),
            "the C program prints one number for each fact"
        );
        facts
            .iter()
            .zip(values)
            .filter(|(fact, value)| fact.rust != *value)
            .map(|(fact, value)| {
                format!(
                    "{}: Rust has {}, {} is {value}",
                    fact.what, fact.rust, fact.c
                )
            })
            .collect()
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, text).expect("write the C program");
        path
    }

    fn compiler(&self) -> Command {
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        cc.args(["-std=gnu11", "-w", "-I"]).arg(&self.dir);
        cc
    }

    fn run(&self, command: &mut Command) -> String {
        let Output {
            status,
            stdout,
            stderr,
        } = command
            .output()
            .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}; {NEEDED}"));
        let complaint = String::from_utf8_lossy(&stderr);
        assert!(
            status.success(),
            "{command:?} failed ({NEEDED}):\n{complaint}"
        );
        String::from_utf8(stdout).expect("the output is text")
    }
}
