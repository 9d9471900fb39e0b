//! Per-CPU state with descriptor tables, and starting further CPUs: by INIT and SIPI as on a bare machine, or with
//! the word `start=vcpu_op` by VCPUOP_initialise and VCPUOP_up, straight into long mode.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::regs::{cr0, cr4, msr, rdmsr, wrmsr};
use super::{apic, paging, start_info, timer, trap};
use crate::bootargs;
use crate::xen::nr;

/// CPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;
pub(super) const STACK_BYTES: usize = 32 * 1024;
const FAULT_STACK_BYTES: usize = 4096;

/// What each CPU has for itself; the GS base points at it.
#[repr(C)]
pub struct PerCpu {
    own: AtomicU64,
    /// TSC at the last entry of a vector.
    pub stamp: AtomicU64,
    index: AtomicUsize,
    /// 1 while `fault_of` waits for a fault.
    pub expecting: AtomicU32,
    /// 1 when the expected fault came.
    pub faulted: AtomicU32,
    /// Vector of the last expected fault.
    pub vector: AtomicU64,
    /// Its error code, 0 for those that have none.
    pub error: AtomicU64,
    /// CR2 at that time.
    pub address: AtomicU64,
    /// Address of the instruction.
    pub rip: AtomicU64,
    /// How often an NMI came.
    pub nmis: AtomicU64,
    /// Function that a secondary CPU runs, as an address; 0: none.
    pub entry: AtomicUsize,
    /// 1 once the CPU runs Rust code in long mode.
    pub online: AtomicU32,
    /// 1 once the upcall vector of this vCPU is registered.
    pub upcall: AtomicU32,
    /// When the timer is to fire.
    pub deadline: AtomicU64,
}

pub(super) const STAMP: usize = offset_of!(PerCpu, stamp);

static CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        own: AtomicU64::new(0),
        stamp: AtomicU64::new(0),
        index: AtomicUsize::new(0),
        expecting: AtomicU32::new(0),
        faulted: AtomicU32::new(0),
        vector: AtomicU64::new(0),
        error: AtomicU64::new(0),
        address: AtomicU64::new(0),
        rip: AtomicU64::new(0),
        nmis: AtomicU64::new(0),
        entry: AtomicUsize::new(0),
        online: AtomicU32::new(0),
        upcall: AtomicU32::new(0),
        deadline: AtomicU64::new(0),
    }
}; MAX_CPUS];

static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);
static APIC_IDS: [AtomicU32; MAX_CPUS] = [const { AtomicU32::new(0) }; MAX_CPUS];

/// Index of the CPU that a SIPI starts.
#[unsafe(no_mangle)]
static GUEST_AP_INDEX: AtomicU32 = AtomicU32::new(0);

/// Task-state segment and descriptor table of a CPU; the double fault has a stack of its own.
#[repr(C, align(16))]
struct Descriptors {
    gdt: [u64; 8],
    task: [u32; 26],
    fault_stack: [u8; FAULT_STACK_BYTES],
}

struct Cell(UnsafeCell<Descriptors>);

// SAFETY: each CPU fills its own, once, before it uses it.
unsafe impl Sync for Cell {}

static DESCRIPTORS: [Cell; MAX_CPUS] = [const {
    Cell(UnsafeCell::new(Descriptors {
        gdt: [0; 8],
        task: [0; 26],
        fault_stack: [0; FAULT_STACK_BYTES],
    }))
}; MAX_CPUS];

/// Selectors in the table of each CPU.
#[allow(missing_docs)]
pub mod selector {
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const CODE_32: u16 = 0x18;
    pub const USER_DATA: u16 = 0x23;
    pub const USER_CODE: u16 = 0x2b;
    pub const TASK: u16 = 0x30;
}

/// Sets this CPU's GS base, descriptor tables and task register.
pub(super) fn prepare(index: usize) {
    let own = &CPUS[index];
    own.own.store((&raw const *own) as u64, Ordering::Relaxed);
    own.index.store(index, Ordering::Relaxed);
    wrmsr(msr::GS_BASE, (&raw const *own) as u64);
    let descriptors = DESCRIPTORS[index].0.get();
    // SAFETY: this CPU's own, in the life of the guest; nothing else names it.
    unsafe {
        let fault_stack = (&raw mut (*descriptors).fault_stack) as u64 + FAULT_STACK_BYTES as u64;
        (*descriptors).task[9] = fault_stack as u32;
        (*descriptors).task[10] = (fault_stack >> 32) as u32;
        // No port permissions: their map begins behind the segment.
        (*descriptors).task[25] = 104 << 16;
        let stack = {
            let here: u64;
            asm!("mov {}, rsp", out(reg) here);
            here
        };
        // Stack of an entry from user mode: well below what runs now.
        let kernel = stack - 8192 & !15;
        (*descriptors).task[1] = kernel as u32;
        (*descriptors).task[2] = (kernel >> 32) as u32;
        let task = (&raw const (*descriptors).task) as u64;
        let low = 103 | (task & 0xff_ffff) << 16 | 0x89 << 40 | (task >> 24 & 0xff) << 56;
        (*descriptors).gdt = [
            0,
            0x00af_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x00cf_9b00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00af_fb00_0000_ffff,
            low,
            task >> 32,
        ];
        let pointer = Pointer {
            limit: 8 * 8 - 1,
            base: (&raw const (*descriptors).gdt) as u64,
        };
        asm!("lgdt [{}]", in(reg) &raw const pointer, options(nostack));
        asm!("ltr {:x}", in(reg) selector::TASK, options(nostack));
    }
    trap::load();
}

/// Operand of LGDT and LIDT.
#[repr(C, packed)]
pub(super) struct Pointer {
    pub(super) limit: u16,
    pub(super) base: u64,
}

/// This CPU's own record.
pub fn this_cpu() -> &'static PerCpu {
    let own: *const PerCpu;
    // SAFETY: `prepare` set the GS base, and the first word names the record.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) own, options(nostack, readonly, preserves_flags));
        &*own
    }
}

/// The record of CPU `index`.
pub fn cpu(index: usize) -> &'static PerCpu {
    &CPUS[index]
}

/// Index of this CPU, counted from 0 in the order of the MADT: the number of its vCPU.
pub fn cpu_index() -> usize {
    this_cpu().index.load(Ordering::Relaxed)
}

/// How many CPUs the domain has, at most `MAX_CPUS`.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

/// The APIC id of CPU `index`.
pub fn apic_id_of(index: usize) -> u32 {
    APIC_IDS[index].load(Ordering::Relaxed)
}

pub(super) fn init() {
    let mut count = 0;
    for id in start_info::apic_ids().take(MAX_CPUS) {
        APIC_IDS[count].store(id, Ordering::Relaxed);
        count += 1;
    }
    CPU_COUNT.store(count.max(1), Ordering::Relaxed);
    this_cpu().online.store(1, Ordering::Release);
}

/// Spins once.
pub fn relax() {
    core::hint::spin_loop();
}

/// Sub-operations of `vcpu_op` that start and stop.
#[allow(missing_docs)]
pub mod vcpu_op {
    pub const INITIALISE: u64 = 0;
    pub const UP: u64 = 1;
    pub const DOWN: u64 = 2;
    pub const IS_UP: u64 = 3;
    pub const SEND_NMI: u64 = 11;
}

/// `vcpu_op(operation, vcpu, argument)`.
pub fn vcpu_call(operation: u64, vcpu: usize, argument: u64) -> i64 {
    super::hypercall(nr::VCPU_OP, [operation, vcpu as u64, argument, 0, 0])
}

unsafe extern "C" {
    static guest_trampoline: u8;
    static guest_trampoline_end: u8;
    fn guest_entry64();
}

/// Page below 1 MiB that the trampoline is copied to.
pub const TRAMPOLINE: u64 = 0x8000;

/// `vcpu_hvm_context` for a start in long mode.
#[repr(C)]
struct Context {
    mode: u32,
    pad: u32,
    rax_rcx_rdx_rbx: [u64; 4],
    rsp: u64,
    rbp: u64,
    rsi_rdi: [u64; 2],
    rip: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    rest_of_the_other_form: [u64; 3],
}

/// Gives vCPU `index` registers that start it in the runtime; the errno.
pub fn vcpu_initialise(index: usize) -> i64 {
    let mut context = Context {
        mode: 1,
        pad: 0,
        rax_rcx_rdx_rbx: [0; 4],
        rsp: stack_top(index),
        rbp: index as u64,
        rsi_rdi: [0; 2],
        rip: guest_entry64 as *const () as u64,
        rflags: 2,
        cr0: cr0(),
        cr3: paging::root(),
        cr4: cr4(),
        efer: rdmsr(msr::EFER),
        rest_of_the_other_form: [0; 3],
    };
    vcpu_call(vcpu_op::INITIALISE, index, (&raw mut context) as u64)
}

fn stack_top(index: usize) -> u64 {
    unsafe extern "C" {
        static GUEST_STACKS: u8;
    }
    (&raw const GUEST_STACKS) as u64 + (index as u64 + 1) * STACK_BYTES as u64
}

/// Sends INIT and SIPI to CPU `index`, which then starts in the runtime.
pub fn start_by_sipi(index: usize) {
    let code = (&raw const guest_trampoline, &raw const guest_trampoline_end);
    let length = code.1 as usize - code.0 as usize;
    GUEST_AP_INDEX.store(index as u32, Ordering::SeqCst);
    // SAFETY: the trampoline fits the page, which is RAM that nothing else uses.
    unsafe { core::ptr::copy_nonoverlapping(code.0, TRAMPOLINE as *mut u8, length) };
    apic::send_init(apic_id_of(index));
    timer::pause(timer::ticks_per_second() / 1000);
    for _ in 0..2 {
        apic::send_sipi(apic_id_of(index), (TRAMPOLINE >> 12) as u8);
        timer::pause(timer::ticks_per_second() / 5000);
    }
}

/// Starts CPU `index` in `entry`; 0 when it was started.
pub fn cpu_start(index: usize, entry: fn(usize)) -> i64 {
    CPUS[index].entry.store(entry as usize, Ordering::Relaxed);
    CPUS[index].online.store(0, Ordering::SeqCst);
    if bootargs::word("start") != Some("vcpu_op") {
        start_by_sipi(index);
        return 0;
    }
    match vcpu_initialise(index) {
        // A vCPU that was up before goes on behind its VCPUOP_down.
        0 | crate::xen::errno::EEXIST => vcpu_call(vcpu_op::UP, index, 0),
        errno => errno,
    }
}

/// Whether CPU `index` runs its entry function.
pub fn cpu_is_online(index: usize) -> bool {
    CPUS[index].online.load(Ordering::Acquire) != 0
}

/// Turns this CPU off; returns only if it is started again by VCPUOP_up.
pub fn cpu_stop() -> i64 {
    this_cpu().online.store(0, Ordering::Release);
    vcpu_call(vcpu_op::DOWN, cpu_index(), 0)
}

/// Whether the hypervisor says that CPU `index` is off.
pub fn cpu_is_off(index: usize) -> bool {
    vcpu_call(vcpu_op::IS_UP, index, 0) == 0
}

#[unsafe(no_mangle)]
extern "C" fn guest_secondary(index: usize) -> ! {
    prepare(index);
    loop {
        apic::init_cpu();
        let own = this_cpu();
        own.upcall.store(0, Ordering::Relaxed);
        own.online.store(1, Ordering::Release);
        let entry = own.entry.load(Ordering::Acquire);
        if entry != 0 {
            // SAFETY: only `cpu_start` stores here, and it stores a `fn(usize)`.
            let entry: fn(usize) = unsafe { core::mem::transmute(entry) };
            entry(index);
        }
        cpu_stop();
    }
}
