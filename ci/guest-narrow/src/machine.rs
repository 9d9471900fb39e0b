//! The 32-bit machine: the PVH entry (`docs/misc/pvh.pandoc`), the way to call the hypervisor, the upcall's interrupt,
//! and PAE paging. All 4 GiB are mapped one to one, but [`ALIAS`] maps the guest's own image a second time and [`CROSSED`] two
//! pages of it the other way round, so that a hypervisor that takes an address for a physical one is found out.

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU32, Ordering::SeqCst};

/// The vector of the domain's upcall.
pub const VECTOR: u8 = 0x40;
/// Where the guest is linked to.
const IMAGE: u32 = 0x0400_0000;
/// Where paging maps it, too.
const ALIAS: u32 = 0xc000_0000;
/// Where paging maps the two pages.
pub const CROSSED: u32 = 0xc020_0000;

/// A page that the hypervisor may write to at any time.
#[repr(C, align(4096))]
pub struct Page([AtomicU32; 1024]);

impl Page {
    /// All zeroes.
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; 1024])
    }

    /// The word at a byte offset.
    pub fn at(&self, offset: u32) -> &AtomicU32 {
        &self.0[offset as usize / 4]
    }

    /// Its address.
    pub fn address(&self) -> u32 {
        (&raw const *self) as u32
    }

    /// The number of its frame.
    pub fn frame(&self) -> u32 {
        self.address() >> 12
    }

    fn set_entry(&self, index: u32, entry: u32) {
        self.at(index * 8).store(entry, SeqCst);
    }
}

/// How often the upcall came.
#[unsafe(no_mangle)]
pub static NARROW_UPCALLS: AtomicU32 = AtomicU32::new(0);
/// Address of the `vcpu_info`, whose flag the upcall clears.
#[unsafe(no_mangle)]
pub static NARROW_INFO: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static NARROW_IS_AMD: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static NARROW_STACK: [Page; 8] = [const { Page::new() }; 8];
/// Interrupt descriptors: one gate is used.
#[unsafe(no_mangle)]
static NARROW_IDT: Page = Page::new();
static POINTERS: Page = Page::new();
static DIRECTORIES: [Page; 4] = [const { Page::new() }; 4];
static TABLE: Page = Page::new();
static IS_PAGING: AtomicU32 = AtomicU32::new(0);

unsafe extern "C" {
    fn narrow_call(number: u32, first: u32, second: u32, third: u32) -> i32;
    fn narrow_upcall();
}

global_asm!(
    r#"
    .section .note.Xen, "a", @note
    .balign 4
    .long   4, 4, 18                // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz  "Xen"
    .long   narrow_entry

    .section .head, "ax"
    .global narrow_entry
narrow_entry:
    cli
    cld
    movl    $NARROW_STACK + 8 * 4096, %esp
    lgdt    narrow_gdtr
    ljmpl   $0x08, $1f
1:  movl    $0x10, %eax
    movl    %eax, %ds
    movl    %eax, %es
    movl    %eax, %ss
    lidt    narrow_idtr
    subl    $12, %esp
    pushl   %ebx                    // the start info
    call    narrow_main
2:  hlt
    jmp     2b

    .balign 8
narrow_gdt:
    .quad   0
    .quad   0x00cf9b000000ffff      // 0x08: code
    .quad   0x00cf93000000ffff      // 0x10: data
narrow_gdtr:
    .word   3 * 8 - 1
    .long   narrow_gdt
narrow_idtr:
    .word   256 * 8 - 1
    .long   NARROW_IDT

    .text
narrow_call:
    pushl   %ebx
    movl    8(%esp), %eax
    movl    12(%esp), %ebx
    movl    16(%esp), %ecx
    movl    20(%esp), %edx
    cmpl    $0, NARROW_IS_AMD
    je      1f
    vmmcall
    popl    %ebx
    ret
1:  vmcall
    popl    %ebx
    ret

narrow_upcall:
    pushl   %eax
    incl    NARROW_UPCALLS
    movl    NARROW_INFO, %eax
    movb    $0, (%eax)
    popl    %eax
    iretl
"#,
    options(att_syntax),
);

/// Finds out how to call, and sets the gate of the upcall.
pub fn init() {
    let vendor = core::arch::x86::__cpuid(0).ebx;
    let is_amd = matches!(vendor, 0x6874_7541 | 0x6f67_7948);
    NARROW_IS_AMD.store(is_amd.into(), SeqCst);
    let handler = narrow_upcall as *const () as u32;
    let gate = u32::from(VECTOR) * 8;
    let (low, high) = (handler & 0xffff | 0x08 << 16, handler & 0xffff_0000);
    NARROW_IDT.at(gate).store(low, SeqCst);
    // Present, interrupt gate of 32 bits.
    NARROW_IDT.at(gate + 4).store(high | 0x8e00, SeqCst);
}

/// Calls the hypervisor.
pub fn call(number: u32, arguments: [u32; 3]) -> i32 {
    let [first, second, third] = arguments;
    // SAFETY: what the call writes is what its arguments name: the caller's buffers, or pages of atomics.
    unsafe { narrow_call(number, first, second, third) }
}

/// How a hypercall names something of the guest's.
pub fn named<T>(place: *const T) -> u32 {
    match IS_PAGING.load(SeqCst) {
        0 => place as u32,
        _ => place as u32 - IMAGE + ALIAS,
    }
}

/// Switches paging on; these two pages stand at [`CROSSED`].
pub fn page(first: &Page, second: &Page) {
    const PRESENT: u32 = 1;
    const TABLES: u32 = 3;
    const LARGE: u32 = 0x83;
    for (index, directory) in (0..).zip(&DIRECTORIES) {
        POINTERS.set_entry(index, directory.address() | PRESENT);
        for entry in 0..512 {
            directory.set_entry(entry, (index * 512 + entry) << 21 | LARGE);
        }
    }
    let [.., last] = &DIRECTORIES;
    last.set_entry(0, IMAGE | LARGE);
    last.set_entry(1, TABLE.address() | TABLES);
    TABLE.set_entry(0, first.address() | TABLES);
    TABLE.set_entry(1, second.address() | TABLES);
    // SAFETY: code, stack and data stay where they are. CR4: PAE; CR0: PG, WP, NE, ET, MP, PE.
    unsafe {
        asm!(
            "mov cr4, {pae:e}", "mov cr3, {root:e}", "mov cr0, {paging:e}",
            pae = in(reg) 0x20, root = in(reg) POINTERS.address(), paging = in(reg) 0x8001_0033_u32,
        );
    }
    IS_PAGING.store(1, SeqCst);
}

/// Takes interrupts for a moment.
pub fn let_interrupts_in() {
    // SAFETY: the only interrupt has its gate, which keeps all registers.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Sleeps until an interrupt was taken.
pub fn sleep() {
    // SAFETY: as above.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// The time-stamp counter.
pub fn ticks() -> u64 {
    // SAFETY: it may be read.
    unsafe { core::arch::x86::_rdtsc() }
}

/// Four bytes at an aligned physical address.
pub fn physical(address: u32) -> u32 {
    // SAFETY: the start info and what it names, which nobody writes; paging maps it where it was.
    unsafe { (address as *const u32).read_volatile() }
}

/// The text at a physical address.
pub fn text(address: u32) -> &'static str {
    let byte = |at: u32| physical(at & !3) >> (at % 4 * 8) & 0xff;
    let length = (0..4096).find(|n| byte(address + n) == 0).unwrap_or(0);
    // SAFETY: so many bytes that nobody writes.
    let bytes = unsafe { core::slice::from_raw_parts(address as *const u8, length as usize) };
    core::str::from_utf8(bytes).unwrap_or("")
}
