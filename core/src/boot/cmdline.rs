//! The hypervisor's own command line, spelled as Xen spells it (`misc/xen-command-line` of Xen's documentation).
//!
//! Parsing never fails: a word that is not known, or a value that is not understood, becomes a [`Warning`] that names
//! it, and the option keeps its default. Words that Xen knows and that have no meaning here are taken silently.

use alloc::{string::String, vec::Vec};
use core::fmt;

/// What the command line may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// `dom0_mem`: how much memory dom0 gets.
    pub dom0_mem: Dom0Memory,
    /// `dom0_max_vcpus`: how many virtual CPUs dom0 gets.
    pub dom0_max_vcpus: VcpuRange,
    /// `console`: where the console goes, in order of mention; empty means the platform's default.
    pub console: Vec<Console>,
    /// `dtuart`: the console UART by path or alias, with options after a colon.
    pub dtuart: Option<String>,
    /// `com1`, `com2`: settings of the PC's serial ports, not interpreted.
    pub com: [Option<String>; 2],
    /// `loglvl`: what the hypervisor prints of its own messages.
    pub log_level: LogLevel,
    /// `guest_loglvl`: what it prints of messages that guests cause.
    pub guest_log_level: LogLevel,
    /// `noreboot`: stop instead of restarting after a fatal error or dom0's shutdown.
    pub noreboot: bool,
    /// `sched`: the scheduler's name.
    pub scheduler: Option<String>,
    /// `conswitch`: the letter whose control code, typed three times, moves input between dom0 and the hypervisor.
    pub console_switch: ConsoleSwitch,
    /// `bootscrub`: clear free memory at boot.
    pub boot_scrub: bool,
    /// `maxcpus`: how many physical CPUs are used; 0 or 1 for one.
    pub max_cpus: Option<u32>,
    /// `sync_console`: write console output before going on.
    pub sync_console: bool,
    /// `dom0`: how dom0 runs, where the machine leaves a choice (x86).
    pub dom0_mode: Option<Dom0Mode>,
    /// `spec-ctrl`: what is done against speculation, for the architecture to interpret; several words with commas between.
    pub spec_ctrl: Option<String>,
    /// `xpti`: which PV guests have page tables of their own, for the architecture to interpret.
    pub xpti: Option<String>,
    /// `pcid`: where the TLB has numbers, in the same way.
    pub pcid: Option<String>,
    /// `smep`: whether the hypervisor runs with that, in the same way.
    pub smep: Option<String>,
    /// `smap`.
    pub smap: Option<String>,
    /// `x2apic`: whether local APICs may be used in that mode (x86).
    pub x2apic: bool,
    /// `apicv`: whether CPUs may keep guests' local APICs where they can (x86).
    pub apicv: bool,
    /// `sv48x4`: whether guests' addresses have four levels of tables where three would do (RISC-V).
    pub sv48x4: bool,
    /// `nmi`: what a non-maskable interrupt of the machine comes to (x86).
    pub nmi: Nmi,
    /// `gnttab_max_frames`.
    pub grant_frames: Option<u32>,
    /// `gnttab_max_maptrack_frames`.
    pub maptrack_frames: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dom0_mem: Dom0Memory::default(),
            dom0_max_vcpus: VcpuRange::default(),
            console: Vec::new(),
            dtuart: None,
            com: [None, None],
            log_level: LogLevel::Info,
            guest_log_level: LogLevel::Info,
            noreboot: false,
            scheduler: None,
            console_switch: ConsoleSwitch::default(),
            boot_scrub: false,
            max_cpus: None,
            sync_console: false,
            dom0_mode: None,
            spec_ctrl: None,
            xpti: None,
            pcid: None,
            smep: None,
            smap: None,
            x2apic: true,
            apicv: true,
            sv48x4: false,
            nmi: Nmi::Dom0,
            grant_frames: None,
            maptrack_frames: None,
        }
    }
}

/// `dom0_mem=[size][,min:size][,max:size]`, in bytes. What is absent is chosen at placement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dom0Memory {
    /// What dom0 starts with.
    pub size: Option<MemorySize>,
    /// It gets no less than this.
    pub min: Option<MemorySize>,
    /// It starts with no more than this.
    pub max: Option<MemorySize>,
}

impl Dom0Memory {
    /// The bytes that are asked for when `free` bytes are there; `None` when the command line does not say.
    #[must_use]
    pub fn asked(&self, free: u64) -> Option<u64> {
        let max = self.max.map(|m| m.of(free));
        let min = self.min.map(|m| m.of(free));
        let size = match (self.size, max) {
            (Some(size), _) => size.of(free),
            (None, Some(max)) => max.min(free),
            (None, None) => return None,
        };
        let size = max.map_or(size, |max| size.min(max));
        Some(min.map_or(size, |min| size.max(min)))
    }
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemorySize {
    /// So many bytes.
    Bytes(u64),
    /// All that is free but so many bytes (`-64M`).
    AllBut(u64),
}

impl MemorySize {
    /// In bytes, when `free` bytes are there.
    #[must_use]
    pub fn of(self, free: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::AllBut(bytes) => free.saturating_sub(bytes),
        }
    }
}

/// `dom0_max_vcpus=n` or `min-max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuRange {
    /// At least so many.
    pub min: u32,
    /// At most so many.
    pub max: u32,
}

impl Default for VcpuRange {
    fn default() -> Self {
        Self {
            min: 0,
            max: u32::MAX,
        }
    }
}

impl VcpuRange {
    /// The number of vCPUs on a machine with so many CPUs: one for each, within the range; at least one.
    #[must_use]
    pub fn on(&self, cpus: u32) -> u32 {
        cpus.max(self.min).min(self.max).max(1)
    }
}

/// A word of `console=`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// `dtuart`: the UART of the device tree.
    DeviceTree,
    /// `com1`, `com2`: a serial port of the PC.
    Com(u8),
    /// `vga`: the text screen.
    Vga,
    /// `none`: no console.
    None,
}

/// A threshold of messages, the quietest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    None,
    /// Errors.
    Error,
    /// Warnings too.
    Warning,
    /// Notices too.
    Info,
    /// Everything.
    Debug,
}

/// `conswitch=<letter>[x]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsoleSwitch {
    /// The control code of the letter; 0 turns switching off.
    pub code: u8,
    /// Whether input starts at dom0 (no `x` given).
    pub to_dom0: bool,
}

impl Default for ConsoleSwitch {
    fn default() -> Self {
        Self {
            code: 1,
            to_dom0: true,
        }
    }
}

/// `dom0=pv|pvh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dom0Mode {
    /// Paravirtual.
    Pv,
    /// In a hardware container.
    Pvh,
}

/// `nmi=ignore|dom0|fatal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nmi {
    /// It is told.
    Ignore,
    /// dom0's first vCPU gets it.
    Dom0,
    /// The machine stops.
    Fatal,
}

/// A word of the command line that had no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    word: String,
    known: bool,
}

impl Warning {
    fn new(word: &str, known: bool) -> Self {
        let word = word.chars().take(64).flat_map(char::escape_debug).collect();
        Self { word, known }
    }

    /// An option that is left to others to interpret has a value that they do not understand.
    #[must_use]
    pub fn of_value(name: &str, value: &str) -> Self {
        let mut word = String::from(name);
        word.push('=');
        word.push_str(value);
        Self::new(&word, true)
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.word;
        if self.known {
            write!(
                f,
                "command line: value of \"{word}\" not understood, default kept; check its spelling"
            )
        } else {
            write!(
                f,
                "command line: unknown word \"{word}\" ignored; check its spelling"
            )
        }
    }
}

/// Options that Xen has and that say nothing here: the command line of a Xen machine is taken without a complaint.
const WITHOUT_EFFECT: &[&str] = &[
    "placeholder",
    "acpi",
    "apic",
    "apic_verbosity",
    "ats",
    "bootscrub_chunk",
    "console_timestamps",
    "console_to_ring",
    "conring_size",
    "cpufreq",
    "cpuidle",
    "debug_stack_lines",
    "dom0-iommu",
    "dom0-cpuid",
    "edd",
    "edid",
    "efi",
    "ext_regions",
    "gdb",
    "gnttab",
    "hmp-unsafe",
    "iommu",
    "loglvl_console",
    "max_cstate",
    "mce",
    "no-real-mode",
    "nosmp",
    "numa",
    "pci",
    "pv-l1tf",
    "serrors",
    "smt",
    "tbuf_size",
    "tsx",
    "ucode",
    "vga",
    "vpid",
    "vwfi",
    "watchdog",
    "watchdog_timeout",
    "xsm",
    "crashkernel",
    "dom0_vcpus_pin",
    "dom0_nodes",
    "sched_credit2_ratelimit_us",
    "sched_ratelimit_us",
    "tickle_one_idle_cpu",
    "vtsc",
    "x2apic_phys",
    "clocksource",
];

/// Parses a command line.
#[must_use]
pub fn parse(line: &str) -> (Options, Vec<Warning>) {
    let mut options = Options::default();
    let mut warnings = Vec::new();
    for word in line.split(|c: char| c.is_ascii_whitespace() || c == '\0') {
        // A bare "--" ends the hypervisor's words where a boot loader joins both lines.
        if word == "--" {
            break;
        }
        if word.is_empty() {
            continue;
        }
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        match apply(&mut options, name, value, word.contains('=')) {
            Outcome::Done => {}
            Outcome::BadValue => warnings.push(Warning::new(word, true)),
            Outcome::Unknown => warnings.push(Warning::new(word, false)),
        }
    }
    (options, warnings)
}

enum Outcome {
    Done,
    BadValue,
    Unknown,
}

fn set<T>(target: &mut T, value: Option<T>) -> Outcome {
    match value {
        Some(value) => {
            *target = value;
            Outcome::Done
        }
        None => Outcome::BadValue,
    }
}

fn apply(o: &mut Options, name: &str, value: &str, has_value: bool) -> Outcome {
    match name {
        "dom0_mem" => set(&mut o.dom0_mem, dom0_memory(value)),
        "dom0_max_vcpus" => set(&mut o.dom0_max_vcpus, vcpu_range(value)),
        "console" => set(&mut o.console, consoles(value)),
        "dtuart" => set(&mut o.dtuart, Some(own(value))),
        "com1" | "com2" => {
            let [first, second] = &mut o.com;
            let port = if name == "com1" { first } else { second };
            set(port, Some(own(value)))
        }
        "loglvl" => set(&mut o.log_level, log_level(value)),
        "guest_loglvl" => set(&mut o.guest_log_level, log_level(value)),
        "sched" => set(
            &mut o.scheduler,
            (!value.is_empty()).then(|| Some(String::from(value))),
        ),
        "conswitch" => set(&mut o.console_switch, console_switch(value)),
        "bootscrub" => match value {
            "idle" => set(&mut o.boot_scrub, Some(true)),
            _ => set(&mut o.boot_scrub, boolean(value)),
        },
        "maxcpus" => set(&mut o.max_cpus, value.parse().ok().map(Some)),
        "gnttab_max_frames" => set(&mut o.grant_frames, integer(value).map(Some)),
        "gnttab_max_maptrack_frames" => set(&mut o.maptrack_frames, integer(value).map(Some)),
        "noreboot" => set(&mut o.noreboot, boolean(value)),
        "reboot" => match value {
            "no" | "n" => set(&mut o.noreboot, Some(true)),
            _ => Outcome::Done,
        },
        "sync_console" => set(&mut o.sync_console, boolean(value)),
        "dom0" => dom0_mode(o, value),
        "spec-ctrl" if value.is_empty() => Outcome::BadValue,
        "spec-ctrl" | "xpti" | "pcid" | "smep" | "smap" => {
            let value = if has_value { value } else { "yes" };
            later(o, name, value)
        }
        "x2apic" => set(&mut o.x2apic, boolean(value)),
        "apicv" => set(&mut o.apicv, boolean(value)),
        "nmi" => set(&mut o.nmi, nmi(value)),
        "sv48x4" => set(&mut o.sv48x4, boolean(value)),
        _ if WITHOUT_EFFECT.contains(&name) => Outcome::Done,
        _ => match name.strip_prefix("no-") {
            Some(_) if has_value => Outcome::Unknown,
            Some("bootscrub") => set(&mut o.boot_scrub, Some(false)),
            Some("sync_console") => set(&mut o.sync_console, Some(false)),
            Some("x2apic") => set(&mut o.x2apic, Some(false)),
            Some("apicv") => set(&mut o.apicv, Some(false)),
            Some(rest @ ("xpti" | "pcid" | "smep" | "smap")) => later(o, rest, "no"),
            Some(rest) if WITHOUT_EFFECT.contains(&rest) => Outcome::Done,
            _ => Outcome::Unknown,
        },
    }
}

fn nmi(value: &str) -> Option<Nmi> {
    match value {
        "ignore" => Some(Nmi::Ignore),
        "dom0" => Some(Nmi::Dom0),
        "fatal" => Some(Nmi::Fatal),
        _ => None,
    }
}

fn own(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| String::from(value))
}

/// Xen's boolean: no value, `yes`, `on`, `true`, `enable`, `1` and their opposites.
fn boolean(value: &str) -> Option<bool> {
    match value {
        "" | "yes" | "on" | "true" | "enable" | "1" => Some(true),
        "no" | "off" | "false" | "disable" | "0" => Some(false),
        _ => None,
    }
}

/// A number in decimal, or in hexadecimal after `0x`, or in octal after `0`, as C reads it.
fn number(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return digits(hex, 16);
    }
    match text.strip_prefix('0') {
        Some("") => Some(0),
        Some(octal) => digits(octal, 8),
        None => digits(text, 10),
    }
}

/// Digits alone: `from_str_radix` would also take a sign.
fn digits(text: &str, radix: u32) -> Option<u64> {
    text.chars()
        .all(|c| c.is_digit(radix))
        .then(|| u64::from_str_radix(text, radix).ok())?
}

fn integer(value: &str) -> Option<u32> {
    u32::try_from(number(value)?).ok()
}

/// Xen's size: a number with `B`, `K`, `M`, `G` or `T`; without a letter it counts KiB.
pub fn size(text: &str) -> Option<u64> {
    let last = text.chars().next_back()?;
    let (shift, letter) = match last.to_ascii_uppercase() {
        'T' => (40, true),
        'G' => (30, true),
        'M' => (20, true),
        'K' => (10, true),
        // In hexadecimal a last B is a digit.
        'B' if !text.starts_with("0x") && !text.starts_with("0X") => (0, true),
        _ => (10, false),
    };
    let count = if letter {
        text.get(..text.len().checked_sub(last.len_utf8())?)?
    } else {
        text
    };
    number(count)?.checked_mul(1 << shift)
}

fn memory_size(text: &str) -> Option<MemorySize> {
    match text.strip_prefix('-') {
        Some(rest) => size(rest).map(MemorySize::AllBut),
        None => size(text).map(MemorySize::Bytes),
    }
}

fn dom0_memory(value: &str) -> Option<Dom0Memory> {
    let mut out = Dom0Memory::default();
    for part in value.split(',') {
        let (target, text) = if let Some(text) = part.strip_prefix("min:") {
            (&mut out.min, text)
        } else if let Some(text) = part.strip_prefix("max:") {
            (&mut out.max, text)
        } else {
            (&mut out.size, part)
        };
        *target = Some(memory_size(text)?);
    }
    Some(out)
}

fn vcpu_range(value: &str) -> Option<VcpuRange> {
    let Some((min, max)) = value.split_once('-') else {
        let n = integer(value).filter(|n| *n > 0)?;
        return Some(VcpuRange { min: n, max: n });
    };
    let bound = |text: &str, open| {
        if text.is_empty() {
            Some(open)
        } else {
            integer(text)
        }
    };
    let range = VcpuRange {
        min: bound(min, 0)?,
        max: bound(max, u32::MAX)?,
    };
    (range.min <= range.max && range.max > 0).then_some(range)
}

fn consoles(value: &str) -> Option<Vec<Console>> {
    value
        .split(',')
        .filter(|word| !matches!(*word, "keep" | ""))
        .map(|word| match word {
            "dtuart" => Some(Console::DeviceTree),
            "com1" => Some(Console::Com(1)),
            "com2" => Some(Console::Com(2)),
            "vga" => Some(Console::Vga),
            "none" => Some(Console::None),
            _ => None,
        })
        .collect()
}

/// `level[/rate-limited level]`; the second is checked and not used: nothing here is rate limited by level.
fn log_level(value: &str) -> Option<LogLevel> {
    let level = |text| match text {
        "none" => Some(LogLevel::None),
        "error" => Some(LogLevel::Error),
        "warning" => Some(LogLevel::Warning),
        "info" => Some(LogLevel::Info),
        "debug" | "all" => Some(LogLevel::Debug),
        _ => None,
    };
    match value.split_once('/') {
        None => level(value),
        Some((lower, upper)) => level(upper).and(level(lower)),
    }
}

fn console_switch(value: &str) -> Option<ConsoleSwitch> {
    let mut bytes = value.bytes();
    let first = bytes.next()?;
    let code = if first.is_ascii_alphabetic() {
        first.to_ascii_lowercase() - b'a' + 1
    } else {
        0
    };
    match (bytes.next(), bytes.next()) {
        (None, None) => Some(ConsoleSwitch {
            code,
            to_dom0: true,
        }),
        (Some(b'x'), None) => Some(ConsoleSwitch {
            code,
            to_dom0: false,
        }),
        _ => None,
    }
}

fn dom0_mode(o: &mut Options, value: &str) -> Outcome {
    for word in value.split(',') {
        match word {
            "pv" => o.dom0_mode = Some(Dom0Mode::Pv),
            "pvh" => o.dom0_mode = Some(Dom0Mode::Pvh),
            "verbose" | "no-verbose" | "shadow" | "no-shadow" => {}
            _ => return Outcome::BadValue,
        }
    }
    Outcome::Done
}

/// Keeps what the architecture interprets, each word behind those before it.
fn later(o: &mut Options, name: &str, value: &str) -> Outcome {
    if value.is_empty() {
        return Outcome::BadValue;
    }
    let words = match name {
        "xpti" => &mut o.xpti,
        "pcid" => &mut o.pcid,
        "smep" => &mut o.smep,
        "smap" => &mut o.smap,
        _ => &mut o.spec_ctrl,
    };
    let words = words.get_or_insert_default();
    if !words.is_empty() {
        words.push(',');
    }
    words.push_str(value);
    Outcome::Done
}

/// Fuzzing: any bytes as a command line.
pub fn fuzz_command_line(bytes: &[u8]) {
    let (options, warnings) = parse(&String::from_utf8_lossy(bytes));
    for warning in &warnings {
        let mut line = String::new();
        let _ = fmt::Write::write_fmt(&mut line, format_args!("{warning}"));
    }
    let _ = options.dom0_mem.asked(1 << 30);
    let _ = options.dom0_max_vcpus.on(4);
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString};
    use proptest::prelude::*;

    fn options(line: &str) -> Options {
        let (options, warnings) = parse(line);
        assert_eq!(warnings, [], "{line}");
        options
    }

    #[test]
    fn sizes_are_read_as_xen_reads_them() {
        assert_eq!(size("512M"), Some(512 << 20));
        assert_eq!(size("2g"), Some(2 << 30));
        assert_eq!(size("1048576"), Some(1 << 30));
        assert_eq!(size("64K"), Some(64 << 10));
        assert_eq!(size("100B"), Some(100));
        assert_eq!(size("0xB"), Some(11 << 10));
        assert_eq!(size("0x10M"), Some(16 << 20));
        assert_eq!(size("M"), None);
        assert_eq!(size(""), None);
        assert_eq!(size("12Q"), None);
        assert_eq!(size("+12M"), None);
        assert_eq!(size("99999999999T"), None);
    }

    #[test]
    fn dom0_memory_takes_size_min_and_max() {
        let free = 2 << 30;
        assert_eq!(options("").dom0_mem.asked(free), None);
        assert_eq!(options("dom0_mem=1G").dom0_mem.asked(free), Some(1 << 30));
        assert_eq!(
            options("dom0_mem=max:1G").dom0_mem.asked(free),
            Some(1 << 30)
        );
        assert_eq!(options("dom0_mem=max:8G").dom0_mem.asked(free), Some(free));
        assert_eq!(
            options("dom0_mem=1G,max:512M").dom0_mem.asked(free),
            Some(512 << 20)
        );
        assert_eq!(
            options("dom0_mem=64M,min:128M").dom0_mem.asked(free),
            Some(128 << 20)
        );
        assert_eq!(options("dom0_mem=-1G").dom0_mem.asked(free), Some(1 << 30));
    }

    #[test]
    fn dom0_vcpus_take_a_number_or_a_range() {
        assert_eq!(options("").dom0_max_vcpus.on(4), 4);
        assert_eq!(options("dom0_max_vcpus=2").dom0_max_vcpus.on(4), 2);
        assert_eq!(options("dom0_max_vcpus=6-8").dom0_max_vcpus.on(4), 6);
        assert_eq!(options("dom0_max_vcpus=-2").dom0_max_vcpus.on(4), 2);
        assert_eq!(options("dom0_max_vcpus=2-").dom0_max_vcpus.on(4), 4);
        assert_eq!(parse("dom0_max_vcpus=0").1.len(), 1);
        assert_eq!(parse("dom0_max_vcpus=4-2").1.len(), 1);
    }

    #[test]
    fn a_usual_xen_line_is_understood() {
        let o = options(
            "console=dtuart dtuart=serial0 loglvl=all guest_loglvl=info/all noreboot sched=credit2 \
             conswitch=bx bootscrub=0 maxcpus=2 sync_console dom0_mem=1024M,max:1024M",
        );
        assert_eq!(o.console, [Console::DeviceTree]);
        assert_eq!(o.dtuart.as_deref(), Some("serial0"));
        assert_eq!(o.log_level, LogLevel::Debug);
        assert_eq!(o.guest_log_level, LogLevel::Info);
        assert!(o.noreboot && !o.boot_scrub && o.sync_console);
        assert_eq!(o.scheduler.as_deref(), Some("credit2"));
        assert_eq!(
            o.console_switch,
            ConsoleSwitch {
                code: 2,
                to_dom0: false
            }
        );
        assert_eq!(o.max_cpus, Some(2));
    }

    #[test]
    fn what_cpus_have_of_local_apics_can_be_left_alone() {
        assert!(options("").x2apic && options("x2apic").x2apic);
        assert!(!options("x2apic=0").x2apic && !options("no-x2apic").x2apic);
        assert!(options("").apicv && options("apicv").apicv);
        assert!(!options("apicv=0").apicv && !options("no-apicv").apicv);
        assert_eq!(parse("apicv=some").1.len(), 1);
        assert!(options("sv48x4").sv48x4 && !options("").sv48x4);
        assert_eq!(options("").nmi, Nmi::Dom0);
        assert_eq!(options("nmi=fatal").nmi, Nmi::Fatal);
        assert_eq!(options("nmi=ignore").nmi, Nmi::Ignore);
        assert_eq!(parse("nmi=never").1.len(), 1);
    }

    #[test]
    fn words_about_speculation_are_handed_on_in_their_order() {
        assert_eq!(options("").spec_ctrl, None);
        let o = options("spec-ctrl=no-xen,ssbd spec-ctrl=rsb=hvm");
        assert_eq!(o.spec_ctrl.as_deref(), Some("no-xen,ssbd,rsb=hvm"));
        assert_eq!(parse("spec-ctrl=").1.len(), 1);
        let o = options("xpti=dom0=no no-pcid smep xpti=domu=1 smap=hvm");
        assert_eq!(o.xpti.as_deref(), Some("dom0=no,domu=1"));
        assert_eq!(
            (o.pcid.as_deref(), o.smep.as_deref()),
            (Some("no"), Some("yes"))
        );
        assert_eq!(o.smap.as_deref(), Some("hvm"));
        assert_eq!(parse("xpti= pcid=").1.len(), 2);
        assert_eq!(
            Warning::of_value("spec-ctrl", "loud").to_string(),
            "command line: value of \"spec-ctrl=loud\" not understood, default kept; check its spelling"
        );
    }

    #[test]
    fn an_unknown_word_is_one_warning_that_names_it() {
        let (o, warnings) = parse("dom0_men=1G noreboot");
        assert!(o.noreboot);
        let [warning] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        assert_eq!(
            warning.to_string(),
            "command line: unknown word \"dom0_men=1G\" ignored; check its spelling"
        );
    }

    #[test]
    fn a_value_that_is_not_understood_keeps_the_default() {
        let (o, warnings) = parse("dom0_mem=lots loglvl=loud");
        assert_eq!(o, Options::default());
        assert_eq!(warnings.len(), 2);
        assert!(warnings[0].to_string().contains("dom0_mem=lots"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            fuzz_command_line(&bytes);
        }

        #[test]
        fn words_near_the_real_ones_are_survived(
            line in "((dom0_mem|dom0_max_vcpus|conswitch|console|loglvl|bootscrub)=[-0-9xa-zA-Z:,/]{0,12} ?){0,6}"
        ) {
            fuzz_command_line(line.as_bytes());
        }

        #[test]
        fn every_size_that_fits_reads_back(mib in 1u64..1 << 40) {
            let text = format!("{mib}M");
            prop_assert_eq!(size(&text), mib.checked_mul(1 << 20));
        }

        #[test]
        fn a_warning_is_one_short_line(word in "\\PC{1,200}") {
            let (_, warnings) = parse(&word);
            for warning in warnings {
                prop_assert!(!warning.to_string().contains('\n'));
            }
        }
    }
}
