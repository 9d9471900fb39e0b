//! Every number of the ABI beside its C name.
//!
//! Enums and flag sets are matched to the macros of one prefix by name, where case and underscores do not count.
//! A macro of that prefix that Rust does not know is a difference, unless the list of what to pass over has it;
//! there, a star at the end stands for anything.

use super::constants;
use super::headers::{Fact, Headers};
use bitflags::Flags;
use std::fmt::Debug;
use xenolith_abi::event_channel::{EventChannelOp, PortState};
use xenolith_abi::grant_table::{
    CacheFlags, CopyFlags, EntryFlags, GrantStatus, GrantTableOp, MapFlags,
};
use xenolith_abi::hvm::{HvmOp, MemType, Param};
use xenolith_abi::memory::{MapSpace, MemFlags, MemoryOp, Resource};
use xenolith_abi::physdev::{IrqStatus, MapPirqType, PciDeviceFlags, PhysdevOp};
use xenolith_abi::start_info::StartFlags;
use xenolith_abi::version::{Features, VersionOp};
use xenolith_abi::xenstore::MessageType;
use xenolith_abi::*;

/// Pushes all facts; returns the names that only one side has.
pub(crate) fn facts(headers: &Headers, facts: &mut Vec<Fact>) -> Vec<String> {
    let mut table = Table {
        headers,
        facts,
        missing: Vec::new(),
    };
    all_enums(&mut table);
    flags(&mut table);
    c_enums(&mut table);
    constants::facts(&mut table);
    table.missing
}

pub(crate) struct Table<'a> {
    pub(crate) headers: &'a Headers,
    facts: &'a mut Vec<Fact>,
    missing: Vec<String>,
}

/// What the header says about a flag: the mask itself, or the number of its bit.
#[derive(Clone, Copy)]
enum FlagForm {
    Mask,
    BitNumber,
}

impl Table<'_> {
    pub(crate) fn constant(&mut self, c: &str, rust: impl Into<i128>) {
        // 64-bit masks print as negative numbers in C; the low 64 bits are what counts.
        self.facts.push(Fact::new(c, c, rust.into() as i64));
    }

    fn with_prefix(&self, prefix: &str, pass_over: &[&str]) -> Vec<String> {
        let passed = |suffix: &str| {
            pass_over
                .iter()
                .any(|pattern| match pattern.strip_suffix('*') {
                    Some(start) => suffix.starts_with(start),
                    None => suffix == *pattern,
                })
        };
        let macros = self.headers.macros.iter();
        macros
            .filter(|name| name.strip_prefix(prefix).is_some_and(|s| !passed(s)))
            .cloned()
            .collect()
    }

    /// Pairs Rust's names with the macros of a prefix.
    pub(crate) fn pair(
        &mut self,
        prefix: &str,
        pass_over: &[&str],
        names: &[(String, i64)],
        only_x86: &[&str],
    ) {
        let mut macros = self.with_prefix(prefix, pass_over);
        for (name, value) in names {
            if self.headers.is_arm() && only_x86.contains(&name.as_str()) {
                continue;
            }
            let same = |c: &String| plain(&c[prefix.len()..]) == plain(name);
            match macros.iter().position(same) {
                Some(index) => {
                    let c = macros.swap_remove(index);
                    self.facts.push(Fact::new(name, c, *value));
                }
                None => self
                    .missing
                    .push(format!("{name}: no macro {prefix}* has this name")),
            }
        }
        self.missing
            .extend(macros.iter().map(|c| format!("{c}: Rust does not have it")));
    }

    fn flags<F: Flags<Bits: Into<i128>>>(
        &mut self,
        prefix: &str,
        form: FlagForm,
        pass_over: &[&str],
    ) {
        let value = |bits: i128| match form {
            FlagForm::Mask => bits as i64,
            FlagForm::BitNumber => i64::from(bits.trailing_zeros()),
        };
        let names: Vec<_> = F::FLAGS
            .iter()
            .map(|f| (f.name().to_owned(), value(f.value().bits().into())))
            .collect();
        self.pair(prefix, pass_over, &names, &[]);
    }

    /// A C `enum`, whose names `-dM` does not show: the names are made from ours.
    fn c_enum<E: Debug>(
        &mut self,
        all: &[E],
        c_name: impl Fn(&str) -> String,
        number: impl Fn(&E) -> i64,
    ) {
        for value in all {
            let name = format!("{value:?}");
            self.facts
                .push(Fact::new(&name, c_name(&name), number(value)));
        }
    }
}

/// A name without case and underscores; the only digit that begins one is spelt out, as Rust must.
fn plain(name: &str) -> String {
    name.to_lowercase()
        .replace('_', "")
        .replace("4gb", "fourgb")
}

/// `TransactionStart` to `transaction_start`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

macro_rules! enums {
    ($table:ident; $($rust:ty = $prefix:literal $(but $($pass:literal)*)? $(; x86 $($x86:literal)*)?,)*) => {$({
        let names: Vec<_> =
            <$rust>::ALL.iter().map(|v| (format!("{v:?}"), v.number() as i64)).collect();
        $table.pair($prefix, &[$($($pass),*)?], &names, &[$($($x86),*)?]);
    })*};
}
pub(crate) use enums;

fn all_enums(table: &mut Table<'_>) {
    enums! { table;
        Nr = "__HYPERVISOR_" but "VIRT_START" "VIRT_END",
        virq::Virq = "VIRQ_",
        EventChannelOp = "EVTCHNOP_",
        PortState = "EVTCHNSTAT_",
        GrantTableOp = "GNTTABOP_" but "error_msgs",
        GrantStatus = "GNTST_",
        MemoryOp = "XENMEM_" but "access_op_*" "paging_op_*" "sharing_op_*" "resource_*" "RDM_ALL" "FORK_*" "SHARING_*",
        MapSpace = "XENMAPSPACE_",
        Resource = "XENMEM_resource_" but "grant_table_id_*" "ioreq_server_frame_*",
        sched::SchedOp = "SCHEDOP_",
        sched::ShutdownReason = "SHUTDOWN_" but "MAX",
        runstate::Runstate = "RUNSTATE_",
        vcpu::VcpuOp = "VCPUOP_",
        vm_assist::AssistCommand = "VMASST_CMD_",
        vm_assist::Assist = "VMASST_TYPE_",
        VersionOp = "XENVER_",
        console::ConsoleIo = "CONSOLEIO_",
        HvmOp = "HVMOP_" but "altp2m_*" "ALTP2M_INTERFACE_VERSION"; x86 "SetEvtchnUpcallVector",
        Param = "HVM_PARAM_" but "CALLBACK_IRQ_TYPE_MASK" "CALLBACK_TYPE_*"; x86 "Viridian",
        PhysdevOp = "PHYSDEVOP_" but "DBGP_*" "pirq_eoi_gmfn",
        MapPirqType = "MAP_PIRQ_TYPE_",
        platform::PlatformOp = "XENPF_" but "INTERFACE_VERSION" "ACPI_SLEEP_EXTENDED" "settime",
        xsm::FlaskOp = "FLASK_",
    }
    let upper: Vec<String> = ('A'..='Z').map(|letter| format!("{letter}*")).collect();
    let upper: Vec<&str> = upper.iter().map(String::as_str).collect();
    numbers_of_tools(table, &upper);
}

/// In these two headers only the sub-operations begin with a small letter.
fn numbers_of_tools(table: &mut Table<'_>, upper: &[&str]) {
    let names: Vec<_> = domctl::DomctlOp::ALL
        .iter()
        .map(|v| (format!("{v:?}"), i64::from(v.number())))
        .collect();
    let other = [
        "vmtrace_enable",
        "vmtrace_disable",
        "vmtrace_reset_and_enable",
    ];
    let more = [
        "vmtrace_output_position",
        "vmtrace_get_option",
        "vmtrace_set_option",
    ];
    table.pair("XEN_DOMCTL_", &[upper, &other, &more].concat(), &names, &[]);
    let names: Vec<_> = sysctl::SysctlOp::ALL
        .iter()
        .map(|v| (format!("{v:?}"), i64::from(v.number())))
        .collect();
    table.pair(
        "XEN_SYSCTL_",
        &[upper, &["cpu_featureset_*", "cpu_policy_*", "pm_op_*"]].concat(),
        &names,
        &[],
    );
}

fn flags(table: &mut Table<'_>) {
    use FlagForm::{BitNumber, Mask};
    let types = [
        "invalid",
        "permit_access",
        "accept_transfer",
        "transitive",
        "type_mask",
    ];
    table.flags::<EntryFlags>("GTF_", Mask, &[&types[..], &["transfer_*"]].concat());
    table.flags::<MapFlags>("GNTMAP_", Mask, &[]);
    table.flags::<CopyFlags>("GNTCOPY_", Mask, &[]);
    table.flags::<CacheFlags>("GNTTAB_CACHE_", Mask, &[]);
    table.flags::<MemFlags>("XENMEMF_", Mask, &[]);
    table.flags::<Features>("XENFEAT_", BitNumber, &["NR_SUBMAPS"]);
    table.flags::<vcpu::SingleshotFlags>("VCPU_SSHOTTMR_", Mask, &[]);
    table.flags::<StartFlags>("SIF_", Mask, &[]);
    table.flags::<IrqStatus>("XENIRQSTAT_", Mask, &[]);
    table.flags::<PciDeviceFlags>("XEN_PCI_DEV_", Mask, &[]);
}

fn c_enums(table: &mut Table<'_>) {
    table.c_enum(
        Errno::ALL,
        |name| format!("XEN_{name}"),
        |v| v.number().into(),
    );
    table.c_enum(
        MemType::ALL,
        |name| format!("HVMMEM_{}", snake(name)),
        |v| v.number().into(),
    );
    let xs = |name: &str| format!("XS_{}", snake(name).to_uppercase());
    table.c_enum(MessageType::ALL, xs, |v| v.number().into());
    table.constant("XS_TYPE_COUNT - 1", MessageType::DirectoryPart.number());
    table.constant("XEN_EWOULDBLOCK", Errno::EWOULDBLOCK.number());
    table.constant("XEN_EDEADLOCK", Errno::EDEADLOCK.number());
}
