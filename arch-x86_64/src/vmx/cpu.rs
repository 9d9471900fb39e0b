//! A physical CPU with VMX: whether it can be used, switching it on, what each CPU keeps.

use core::arch::asm;

use spin::Once;
use x86_64::{
    instructions::tables,
    registers::{
        control::{Cr0, Cr4, Cr4Flags},
        model_specific::{FsBase, GsBase, Msr},
        segmentation::{CS, SS, Segment},
    },
};
use xenolith_core::{Hypervisor, memory::Place};
use xenolith_hal::{CpuId, HostPhys};

use super::{
    controls::{OnEntry, OnExit, Pin, Primary, Secondary, Translation, choose},
    fields as f,
    instructions::{self, Invept, write},
    maps::{self, MSR_MAP_BYTES, PORT_MAP_BYTES},
};
use crate::{
    X86_64,
    cpu::cpuid::cpuid,
    mm::hyp::Direct,
    permission::{self, FEATURE_CONTROL, LOCKED, VMX_ALLOWED},
    svm::asid::Asids,
};

/// Capability registers (Intel SDM, volume 3, appendix A).
mod msr {
    pub const PAT: u32 = 0x277;
    pub const EFER: u32 = 0xc000_0080;
    pub const BASIC: u32 = 0x480;
    pub const CR0_FIXED0: u32 = 0x486;
    pub const CR4_FIXED0: u32 = 0x488;
    pub const SECONDARY: u32 = 0x48b;
    pub const TRANSLATION: u32 = 0x48c;
    pub const TRUE_PIN: u32 = 0x48d;
    pub const TRUE_PRIMARY: u32 = 0x48e;
    pub const TRUE_EXIT: u32 = 0x48f;
    pub const TRUE_ENTRY: u32 = 0x490;
}

const CR0_PE_PG: u64 = 1 << 31 | 1;
const CR4_MACHINE_CHECK: u64 = 1 << 6;
/// Identifiers of translations; 0 is the host's.
const IDENTIFIERS: u32 = 1 << 16;

/// What the CPU offers, as control words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    pub(super) revision: u32,
    pub(super) pin: Pin,
    pub(super) primary: Primary,
    pub(super) secondary: Secondary,
    pub(super) exit: OnExit,
    pub(super) entry: OnEntry,
    pub(super) translation: Translation,
    /// The CPU can have the guest's x2APIC.
    pub(super) has_apic: bool,
    /// Bits of CR0 and CR4 that have to be on while a guest runs.
    pub(super) fixed: [u64; 2],
}

impl Features {
    /// Whether second-level tables may have blocks of 1 GiB.
    #[must_use]
    pub const fn gigabyte_pages(&self) -> bool {
        self.translation.contains(Translation::BLOCKS_1G)
    }

    /// Whether translations are tagged, so that they outlive exits.
    pub(super) const fn has_identifiers(&self) -> bool {
        self.secondary.contains(Secondary::VPID)
    }
}

fn capability(number: u32) -> u64 {
    // SAFETY: only asked where CPUID shows VMX, and the numbers above 0x48a where the registers before say so.
    unsafe { Msr::new(number).read() }
}

/// Whether the CPU has VMX at all.
#[must_use]
pub fn exists() -> bool {
    cpuid(1, 0).ecx & 1 << 5 != 0
}

/// Whether this CPU can run guests by VMX; the error says what is missing.
/// `apicv` says whether guests' local APICs may be lent to it.
pub fn detect(apicv: bool) -> Result<Features, &'static str> {
    if !exists() {
        return Err("the CPU has no VMX");
    }
    permission::vmx(capability(FEATURE_CONTROL))?;
    let basic = capability(msr::BASIC);
    let old = "VMX is too old on this CPU: it lacks controls that guests need";
    if basic & 1 << 55 == 0 {
        return Err(old);
    }
    let pin = Pin::INTERRUPTS | Pin::NMIS | Pin::VIRTUAL_NMIS;
    let pin = choose(capability(msr::TRUE_PIN), pin.bits(), 0, 0).map_err(|_| old)?;
    let primary = Primary::TSC_OFFSET
        | Primary::HLT
        | Primary::MWAIT
        | Primary::RDPMC
        | Primary::CR8_LOAD
        | Primary::CR8_STORE
        | Primary::IO_BITMAPS
        | Primary::MSR_BITMAP
        | Primary::MONITOR
        | Primary::SECONDARY;
    let allowed = Secondary::from_bits_retain((capability(msr::SECONDARY) >> 32) as u32);
    let has_apic = apicv
        && allowed.contains(Secondary::VIRTUAL_APIC)
        && has_tpr_shadow(capability(msr::TRUE_PRIMARY));
    let unwanted = Primary::CR3_LOAD | Primary::CR3_STORE | Primary::INVLPG | Primary::RDTSC;
    let primary = choose(
        capability(msr::TRUE_PRIMARY),
        primary.bits(),
        0,
        unwanted.bits(),
    )
    .map_err(|_| old)?;
    let secondary = second_level(allowed)?;
    let exit = OnExit::SAVE_DEBUG
        | OnExit::HOST_64
        | OnExit::SAVE_PAT
        | OnExit::LOAD_PAT
        | OnExit::LOAD_EFER;
    let exit = choose(
        capability(msr::TRUE_EXIT),
        exit.bits(),
        0,
        OnExit::ACKNOWLEDGE.bits(),
    )
    .map_err(|_| old)?;
    let entry = OnEntry::LOAD_DEBUG | OnEntry::LOAD_PAT | OnEntry::LOAD_EFER;
    let entry = choose(
        capability(msr::TRUE_ENTRY),
        entry.bits(),
        0,
        OnEntry::LONG_MODE.bits(),
    )
    .map_err(|_| old)?;
    Ok(Features {
        revision: basic as u32 & 0x7fff_ffff,
        pin: Pin::from_bits_retain(pin),
        primary: Primary::from_bits_retain(primary),
        secondary,
        exit: OnExit::from_bits_retain(exit),
        entry: OnEntry::from_bits_retain(entry),
        translation: Translation::from_bits_retain(capability(msr::TRANSLATION)),
        has_apic,
        fixed: [
            // Guests are unrestricted: these two are theirs.
            capability(msr::CR0_FIXED0) & !CR0_PE_PG,
            // A machine check while the guest runs would end in a shutdown without the second.
            capability(msr::CR4_FIXED0) | CR4_MACHINE_CHECK,
        ],
    })
}

/// Whether the task priority can be the guest's own, by a capability register of the primary controls.
fn has_tpr_shadow(capability: u64) -> bool {
    let cr8 = Primary::CR8_LOAD | Primary::CR8_STORE;
    choose(capability, Primary::TPR_SHADOW.bits(), 0, cr8.bits()).is_ok()
}

/// Secondary controls with the second-level tables that guests need.
fn second_level(allowed: Secondary) -> Result<Secondary, &'static str> {
    const TABLES: Translation = Translation::FOUR_LEVELS
        .union(Translation::WRITE_BACK)
        .union(Translation::BLOCKS_2M)
        .union(Translation::INVEPT);
    const TAGS: Translation = Translation::INVVPID.union(Translation::INVVPID_ALL);
    if !allowed.contains(Secondary::EPT) {
        return Err("VMX has no second-level tables (EPT) on this CPU");
    }
    if !allowed.contains(Secondary::UNRESTRICTED) {
        return Err("VMX cannot run guests in real mode (unrestricted guest) on this CPU");
    }
    // The register exists where EPT does.
    let translation = Translation::from_bits_retain(capability(msr::TRANSLATION));
    if !translation.contains(TABLES) {
        return Err("VMX's second-level tables (EPT) are too limited on this CPU");
    }
    let mut wished = Secondary::WBINVD | Secondary::PAUSE_LOOP;
    if translation.contains(TAGS) {
        wished |= Secondary::VPID;
    }
    Ok(Secondary::EPT | Secondary::UNRESTRICTED | wished & allowed)
}

/// What an exit loads, but for RSP and RIP.
struct Host {
    cr: [u64; 3],
    efer: u64,
    pat: u64,
    selectors: [u16; 3],
    fs_base: u64,
    gs_base: u64,
    task_base: u64,
    gdt: u64,
    idt: u64,
}

/// What one CPU keeps for VMX.
pub struct VmxCpu {
    /// Identifiers of translations.
    pub asids: Asids,
    one_pointer: bool,
    host: Host,
}

impl VmxCpu {
    /// Drops what the CPU cached from one tree of second-level tables.
    pub(super) fn drop_translations(&self, pointer: u64) {
        instructions::invept(if self.one_pointer {
            Invept::One(pointer)
        } else {
            Invept::All
        });
    }

    /// Makes the current control structure return to this CPU's state.
    pub(super) fn write_host(&self) {
        let host = &self.host;
        let [cr0, cr3, cr4] = host.cr;
        write(f::HOST_CR0, cr0);
        write(f::HOST_CR3, cr3);
        write(f::HOST_CR4, cr4);
        write(f::HOST_EFER, host.efer);
        write(f::HOST_PAT, host.pat);
        let [code, stack, task] = host.selectors;
        write(f::HOST_CS_SELECTOR, code);
        write(f::HOST_SS_SELECTOR, stack);
        write(f::HOST_TR_SELECTOR, task);
        write(f::HOST_DS_SELECTOR, 0);
        write(f::HOST_ES_SELECTOR, 0);
        write(f::HOST_FS_SELECTOR, 0);
        write(f::HOST_GS_SELECTOR, 0);
        write(f::HOST_FS_BASE, host.fs_base);
        write(f::HOST_GS_BASE, host.gs_base);
        write(f::HOST_TR_BASE, host.task_base);
        write(f::HOST_GDTR_BASE, host.gdt);
        write(f::HOST_IDTR_BASE, host.idt);
        write(f::HOST_SYSENTER_CS, 0);
        write(f::HOST_SYSENTER_ESP, 0);
        write(f::HOST_SYSENTER_EIP, 0);
    }
}

/// Bitmaps that most domains share.
pub struct Maps {
    /// Every port exits.
    pub ports: HostPhys,
    /// Every MSR exits but the guest's own.
    pub msrs: HostPhys,
    /// The same where the CPU has the guest's x2APIC.
    pub msrs_with_apic: HostPhys,
}

static MAPS: Once<Maps> = Once::new();

/// The shared bitmaps; the first call makes them.
pub fn shared_maps(hv: &Hypervisor<X86_64>) -> Option<&'static Maps> {
    if let Some(maps) = MAPS.get() {
        return Some(maps);
    }
    let ports = port_map(hv, &[0..=u16::MAX])?;
    let msrs = msr_map(hv, &maps::msr_map())?;
    let msrs_with_apic = msr_map(hv, &maps::msr_map_with_apic())?;
    Some(MAPS.call_once(|| Maps {
        ports,
        msrs,
        msrs_with_apic,
    }))
}

fn msr_map(hv: &Hypervisor<X86_64>, map: &[u8]) -> Option<HostPhys> {
    const { assert!(MSR_MAP_BYTES == 1 << 12) };
    let frame = hv.memory.allocate(0, Place::ANY)?;
    Direct::write(frame, 0, map).ok()?;
    Some(frame.base())
}

/// Port bitmaps of a domain's own, where only some ports exit: two pages in one piece.
pub fn port_map(
    hv: &Hypervisor<X86_64>,
    exits: &[core::ops::RangeInclusive<u16>],
) -> Option<HostPhys> {
    const { assert!(PORT_MAP_BYTES == 2 << 12) };
    let ports = hv.memory.allocate(1, Place::ANY)?;
    for (page, bytes) in (0..).zip(maps::port_map(exits).chunks(1 << 12)) {
        Direct::write(ports.plus(page), 0, bytes).ok()?;
    }
    Some(ports.base())
}

/// Base of the task state that the task register names.
fn task_base(gdt: u64, selector: u16) -> u64 {
    let at = (gdt + u64::from(selector & !7)) as *const u64;
    // SAFETY: the selector is that of a descriptor of 16 bytes in the executing CPU's own table.
    let (low, high) = unsafe { (at.read(), at.add(1).read()) };
    low >> 16 & 0xff_ffff | low >> 32 & 0xff00_0000 | high << 32
}

fn host_state() -> Host {
    let (gdt, idt) = (tables::sgdt().base.as_u64(), tables::sidt().base.as_u64());
    let task: u16;
    // SAFETY: reads the task register.
    unsafe { asm!("str {:x}", out(reg) task, options(nomem, nostack, preserves_flags)) }
    let cr3: u64;
    // SAFETY: reads a control register.
    unsafe { asm!("mov {}, cr3", out(reg) cr3, options(nomem, nostack, preserves_flags)) }
    // SAFETY: both registers exist on every CPU with long mode.
    let (efer, pat) = unsafe { (Msr::new(msr::EFER).read(), Msr::new(msr::PAT).read()) };
    Host {
        cr: [Cr0::read_raw(), cr3, Cr4::read_raw()],
        efer,
        pat,
        selectors: [CS::get_reg().0 & !7, SS::get_reg().0 & !7, task & !7],
        fs_base: FsBase::read().as_u64(),
        gs_base: GsBase::read().as_u64(),
        task_base: task_base(gdt, task),
        gdt,
        idt,
    }
}

/// Switches VMX on for the executing CPU, which has its tables, its data and its control registers as they will stay.
pub fn start(hv: &Hypervisor<X86_64>, features: &Features, cpu: CpuId) -> Option<VmxCpu> {
    if detect(features.has_apic).as_ref() != Ok(features) {
        log::error!("CPU {} has another VMX than the first one", cpu.0);
        return None;
    }
    let Some(region) = hv.memory.allocate(0, Place::ANY) else {
        log::error!("no memory for guests on CPU {}", cpu.0);
        return None;
    };
    Direct::zero(region, 0);
    Direct::write(region, 0, &features.revision.to_le_bytes()).ok()?;
    let control = capability(FEATURE_CONTROL);
    if control & LOCKED == 0 {
        // SAFETY: the register exists where VMX does; once locked, it stays so until reset.
        unsafe { Msr::new(FEATURE_CONTROL).write(control | LOCKED | VMX_ALLOWED) }
    }
    // SAFETY: VMX exists. The region is this CPU's, and given back to nobody. CR0 has what VMX wants: paging, protection
    // and native floating-point errors are on since start-up.
    let on = unsafe {
        Cr4::update(|cr4| cr4.insert(Cr4Flags::VIRTUAL_MACHINE_EXTENSIONS));
        instructions::vmxon(region.base())
    };
    if !on {
        log::error!("CPU {} refuses VMX", cpu.0);
        return None;
    }
    // What an earlier user of VMX left.
    instructions::invept(Invept::All);
    if features.has_identifiers() {
        instructions::invvpid_all();
    }
    Some(VmxCpu {
        asids: Asids::new(IDENTIFIERS),
        one_pointer: features.translation.contains(Translation::INVEPT_ONE),
        host: host_state(),
    })
}
