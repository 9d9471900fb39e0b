//! Per-CPU state, and starting further CPUs by `VCPUOP_initialise` and `VCPUOP_up`.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::trap::{self, Frame};
use super::{memory, tables, upcall};
use crate::arch::hypercall;
use crate::xen::{errno, nr};

/// CPUs that the runtime has stacks for.
pub const MAX_CPUS: usize = 8;
pub(super) const STACK_BYTES: usize = 64 * 1024;
/// What runs has this much of its stack; below that begins the stack of entries from user code.
const OWN_STACK_BYTES: u64 = 40 * 1024;

/// A frame that one CPU keeps for its own code to look at.
pub struct Kept(UnsafeCell<Frame>);

// SAFETY: each is used by one CPU only.
unsafe impl Sync for Kept {}

impl Kept {
    pub(super) fn store(&self, frame: &Frame) {
        // SAFETY: this CPU's own; no reference to it lives on.
        unsafe { *self.0.get() = *frame }
    }

    /// The frame of the last expected fault.
    pub fn load(&self) -> Frame {
        // SAFETY: as above.
        unsafe { *self.0.get() }
    }
}

/// What each CPU has for itself; the GS base points at it.
#[repr(C)]
pub struct PerCpu {
    own: AtomicU64,
    /// TSC at the last entry of a trap or event.
    pub stamp: AtomicU64,
    /// System calls with rax = 0.
    pub syscalls: AtomicU64,
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
    /// All registers at the last expected fault.
    pub faulted_at: Kept,
    /// How often an NMI came.
    pub nmis: AtomicU64,
    /// Function that a secondary CPU runs, as an address; 0: none.
    pub entry: AtomicUsize,
    /// 1 once the CPU runs Rust code.
    pub online: AtomicU32,
    /// Port of the timer's interrupt; 0: none.
    pub timer_port: AtomicU32,
    /// Port of interrupts from other CPUs; 0: none.
    pub ipi_port: AtomicU32,
    /// When the timer is to fire (TSC).
    pub deadline: AtomicU64,
}

pub(super) const STAMP: usize = offset_of!(PerCpu, stamp);
pub(super) const SYSCALLS: usize = offset_of!(PerCpu, syscalls);

static CPUS: [PerCpu; MAX_CPUS] = [const {
    PerCpu {
        own: AtomicU64::new(0),
        stamp: AtomicU64::new(0),
        syscalls: AtomicU64::new(0),
        index: AtomicUsize::new(0),
        expecting: AtomicU32::new(0),
        faulted: AtomicU32::new(0),
        vector: AtomicU64::new(0),
        error: AtomicU64::new(0),
        address: AtomicU64::new(0),
        rip: AtomicU64::new(0),
        faulted_at: Kept(UnsafeCell::new(Frame::NOTHING)),
        nmis: AtomicU64::new(0),
        entry: AtomicUsize::new(0),
        online: AtomicU32::new(0),
        timer_port: AtomicU32::new(0),
        ipi_port: AtomicU32::new(0),
        deadline: AtomicU64::new(0),
    }
}; MAX_CPUS];

static CPU_COUNT: AtomicUsize = AtomicUsize::new(1);

/// Selectors of the hypervisor's own flat segments.
#[allow(missing_docs)]
pub mod selector {
    pub const CODE: u16 = 0xe033;
    pub const CODE_32: u16 = 0xe023;
    pub const DATA: u16 = 0xe02b;
    pub const USER_DATA: u16 = 0xe02b;
    pub const USER_CODE: u16 = 0xe033;
}

/// `set_segment_base`'s first argument.
#[allow(missing_docs)]
pub mod segment {
    pub const FS: u64 = 0;
    pub const GS_USER: u64 = 1;
    pub const GS_KERNEL: u64 = 2;
    pub const GS_USER_SELECTOR: u64 = 3;
}

/// Whether the registers of a trap are those of user code.
pub fn is_user(frame: &Frame) -> bool {
    frame.cs & 3 == 3
}

/// `set_segment_base`.
pub fn set_segment_base(which: u64, base: u64) -> i64 {
    hypercall(nr::SET_SEGMENT_BASE, [which, base, 0, 0, 0])
}

/// `stack_switch`: where the stack of the kernel begins when user code is left.
pub fn stack_switch(selector: u16, top: u64) -> i64 {
    hypercall(nr::STACK_SWITCH, [u64::from(selector), top, 0, 0, 0])
}

/// Sets this CPU's record, trap table, callbacks, and stack of entries from user code.
pub(super) fn prepare(index: usize) {
    let own = &CPUS[index];
    own.own.store((&raw const *own) as u64, Ordering::Relaxed);
    own.index.store(index, Ordering::Relaxed);
    set_segment_base(segment::GS_KERNEL, (&raw const *own) as u64);
    trap::load();
    upcall::register_callbacks();
    restore_user_stack(index);
    // A vCPU starts with a tick.
    vcpu_call(vcpu_op::STOP_PERIODIC, index, 0);
}

/// Has entries from user code use a stack well below what runs now.
pub fn restore_user_stack(index: usize) {
    stack_switch(selector::DATA, user_stack_top(index));
}

/// Where the stack of entries from user code begins.
pub fn user_stack_top(index: usize) -> u64 {
    stack_top(index) - OWN_STACK_BYTES
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

/// Index of this CPU: the number of its vCPU.
pub fn cpu_index() -> usize {
    this_cpu().index.load(Ordering::Relaxed)
}

/// How many CPUs the domain has, at most `MAX_CPUS`.
pub fn cpu_count() -> usize {
    CPU_COUNT.load(Ordering::Relaxed)
}

pub(super) fn init() {
    let exists = |index: &usize| vcpu_call(vcpu_op::IS_UP, *index, 0) != errno::ENOENT;
    CPU_COUNT.store((0..MAX_CPUS).take_while(exists).count(), Ordering::Relaxed);
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
    pub const SET_PERIODIC: u64 = 6;
    pub const STOP_PERIODIC: u64 = 7;
    pub const SET_SINGLESHOT: u64 = 8;
    pub const STOP_SINGLESHOT: u64 = 9;
    pub const SEND_NMI: u64 = 11;
}

/// `vcpu_op(operation, vcpu, argument)`.
pub fn vcpu_call(operation: u64, vcpu: usize, argument: u64) -> i64 {
    hypercall(nr::VCPU_OP, [operation, vcpu as u64, argument, 0, 0])
}

/// `vcpu_guest_context` of x86-64.
#[repr(C)]
#[derive(Clone, Copy)]
#[allow(missing_docs)]
pub struct Context {
    pub fpu: [u64; 64],
    pub flags: u64,
    pub r15_to_rbx: [u64; 6],
    pub r11_to_rsi: [u64; 8],
    pub rdi: u64,
    pub error_and_vector: u64,
    pub rip: u64,
    pub cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u64,
    pub es_ds_fs_gs: [u64; 4],
    pub traps: [trap::Entry; 256],
    pub ldt_base: u64,
    pub ldt_entries: u64,
    pub gdt_frames: [u64; 16],
    pub gdt_entries: u64,
    pub kernel_ss: u64,
    pub kernel_sp: u64,
    pub cr: [u64; 8],
    pub dr: [u64; 8],
    pub event_callback: u64,
    pub failsafe_callback: u64,
    pub syscall_callback: u64,
    pub vm_assist: u64,
    pub fs_base: u64,
    pub gs_base_kernel: u64,
    pub gs_base_user: u64,
}

const _: () = assert!(size_of::<Context>() == 5168);

/// `VGCF_in_kernel`.
pub const IN_KERNEL: u64 = 4;

struct ContextCell(UnsafeCell<Context>);

// SAFETY: CPU 0 alone fills it, for one call at a time.
unsafe impl Sync for ContextCell {}

// SAFETY: a struct of integers, for which zeros are a value.
static CONTEXT: ContextCell = ContextCell(UnsafeCell::new(unsafe { core::mem::zeroed() }));

/// A context that starts vCPU `index` in the runtime. One at a time.
pub fn context(index: usize) -> &'static mut Context {
    // SAFETY: see `ContextCell`; callers let go of the last before they ask for another.
    let context = unsafe { &mut *CONTEXT.0.get() };
    // SAFETY: as for the static.
    *context = unsafe { core::mem::zeroed() };
    context.flags = IN_KERNEL;
    context.rdi = index as u64;
    context.rip = secondary_entry();
    context.cs = u64::from(selector::CODE);
    context.rflags = 0x202;
    context.rsp = stack_top(index);
    context.ss = u64::from(selector::DATA);
    context.kernel_ss = u64::from(selector::DATA);
    context.kernel_sp = stack_top(index) - OWN_STACK_BYTES;
    context.cr[3] = memory::frame_of(tables::root()) << 12;
    context.gs_base_kernel = (&raw const CPUS[index]) as u64;
    context
}

fn secondary_entry() -> u64 {
    unsafe extern "C" {
        fn guest_entry_secondary();
    }
    guest_entry_secondary as *const () as u64
}

/// Gives vCPU `index` registers that start it in the runtime; the errno.
pub fn vcpu_initialise(index: usize) -> i64 {
    let context = context(index % MAX_CPUS);
    vcpu_call(vcpu_op::INITIALISE, index, (&raw const *context) as u64)
}

fn stack_top(index: usize) -> u64 {
    unsafe extern "C" {
        static GUEST_STACKS: u8;
    }
    (&raw const GUEST_STACKS) as u64 + (index as u64 + 1) * STACK_BYTES as u64
}

/// Starts CPU `index` in `entry`; 0 when it was started.
pub fn cpu_start(index: usize, entry: fn(usize)) -> i64 {
    CPUS[index].entry.store(entry as usize, Ordering::Relaxed);
    CPUS[index].online.store(0, Ordering::SeqCst);
    match vcpu_initialise(index) {
        // A vCPU that was up before goes on behind its VCPUOP_down.
        0 | errno::EEXIST => vcpu_call(vcpu_op::UP, index, 0),
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
        let own = this_cpu();
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
