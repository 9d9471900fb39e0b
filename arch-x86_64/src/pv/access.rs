//! The memory of the guest whose address space is loaded, at the guest's own addresses. What is not there, or may not be
//! written, is an error; what is the hypervisor's is never touched.

use core::arch::global_asm;

use xenolith_hal::Fault;

global_asm!(
    r#"
    .section .text.pv_copy, "ax"
    .balign 16
    .global pv_copy
pv_copy:                                // rdi: to, rsi: from, rdx: bytes
    movl    %edx, %ecx
    shrl    $3, %ecx
1:  rep movsq
    andl    $7, %edx
    jz      3f
    movl    %edx, %ecx
2:  rep movsb
3:  xorl    %eax, %eax
    retq
4:  movl    $1, %eax
    retq
    .pushsection ex_table, "a"
    .quad   1b, 4b, 2b, 4b
    .popsection
    .text
    "#,
    options(att_syntax),
);

unsafe extern "C" {
    fn pv_copy(to: *mut u8, from: *const u8, bytes: usize) -> u32;
}

/// Whether an address can be a guest's: not the hypervisor's. What is no address at all faults.
#[inline(always)]
#[must_use]
pub const fn is_guest(address: u64) -> bool {
    const HYPERVISOR_END: u64 = 0xffff_8800_0000_0000;
    const LOW_END: u64 = 1 << 47;
    // Everything from the upper end of the lower half to the hypervisor's end is in one piece.
    address.wrapping_sub(LOW_END) >= HYPERVISOR_END - LOW_END
}

/// Longer copies are not asked for.
const MOST: usize = 1 << 30;

/// Copies in.
#[inline(always)]
pub fn read(from: u64, to: &mut [u8]) -> Result<(), Fault> {
    if !is_guest(from) || to.len() > MOST {
        return Err(Fault);
    }
    if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *to) {
        *word = read_word(from)?.to_ne_bytes();
        return Ok(());
    }
    // SAFETY: `to` is the caller's; the other side cannot reach the hypervisor's addresses, as a hole of addresses that do not
    // exist lies before them, and a fault there ends the copy.
    match unsafe { pv_copy(to.as_mut_ptr(), from as *const u8, to.len()) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// Copies out.
#[inline(always)]
pub fn write(to: u64, from: &[u8]) -> Result<(), Fault> {
    if let Ok(bytes) = <[u8; 2]>::try_from(from) {
        return write_quarter(to, u16::from_ne_bytes(bytes));
    }
    if let Ok(bytes) = <[u8; 4]>::try_from(from) {
        return write_half(to, u32::from_ne_bytes(bytes));
    }
    if !is_guest(to) || from.len() > MOST {
        return Err(Fault);
    }
    // SAFETY: as in `read`; the CPU refuses to write where the guest may not.
    match unsafe { pv_copy(to as *mut u8, from.as_ptr(), from.len()) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

/// Reads a word.
#[inline(always)]
pub fn read_word(from: u64) -> Result<u64, Fault> {
    if !is_guest(from) {
        return Err(Fault);
    }
    let (value, read): (u64, u32);
    // SAFETY: reads memory of the guest, into a register; a fault leaves `read` zero.
    unsafe {
        core::arch::asm!(
            "xor {read:e}, {read:e}",
            "2: mov {value}, [{from}]",
            "mov {read:e}, 1",
            "3:",
            ".pushsection ex_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            from = in(reg) from,
            value = out(reg) value,
            read = out(reg) read,
            options(nostack, readonly),
        );
    }
    if read != 0 { Ok(value) } else { Err(Fault) }
}

/// Reads words in a row: those whose loads are given, each as instruction, label before it, and the register it fills.
macro_rules! read_row {
    ($from:expr, $($load:literal => $word:ident),*) => {{
        let from: u64 = $from;
        if !is_guest(from) {
            return Err(Fault);
        }
        let mut failed = 1u32;
        $(let $word: u64;)*
        // SAFETY: reads memory of the guest, into registers; a fault leaves `failed` set. Words in a row cannot get from the
        // guest's addresses to the hypervisor's without a fault.
        unsafe {
            core::arch::asm!(
                $(concat!("2: ", $load), ".pushsection ex_table, \"a\"", ".quad 2b, 3f", ".popsection",)*
                "xor {failed:e}, {failed:e}",
                "3:",
                $($word = out(reg) $word,)*
                from = in(reg) from,
                failed = inout(reg) failed,
                options(nostack, readonly),
            );
        }
        if failed != 0 {
            return Err(Fault);
        }
        [$($word),*]
    }};
}

/// Reads two words in a row.
#[inline(always)]
pub fn read_pair(from: u64) -> Result<[u64; 2], Fault> {
    Ok(read_row!(from, "mov {a}, [{from}]" => a, "mov {b}, [{from} + 8]" => b))
}

/// Reads three words in a row.
#[inline(always)]
pub fn read_triple(from: u64) -> Result<[u64; 3], Fault> {
    Ok(
        read_row!(from, "mov {a}, [{from}]" => a, "mov {b}, [{from} + 8]" => b, "mov {c}, [{from} + 16]" => c),
    )
}

macro_rules! write_part {
    ($to:expr, $value:expr, $store:literal) => {{
        let to: u64 = $to;
        if !is_guest(to) {
            return Err(Fault);
        }
        let mut failed = 1u32;
        // SAFETY: writes memory of the guest, as the CPU allows it; a fault leaves `failed` set.
        unsafe {
            core::arch::asm!(
                concat!("2: ", $store),
                "xor {failed:e}, {failed:e}",
                "3:",
                ".pushsection ex_table, \"a\"",
                ".quad 2b, 3b",
                ".popsection",
                to = in(reg) to,
                value = in(reg) $value,
                failed = inout(reg) failed,
                options(nostack),
            );
        }
        if failed == 0 { Ok(()) } else { Err(Fault) }
    }};
}

/// Writes half a word.
#[inline(always)]
pub fn write_half(to: u64, value: u32) -> Result<(), Fault> {
    write_part!(to, value, "mov dword ptr [{to}], {value:e}")
}

/// Writes a quarter of a word.
#[inline(always)]
pub fn write_quarter(to: u64, value: u16) -> Result<(), Fault> {
    write_part!(to, value, "mov word ptr [{to}], {value:x}")
}

/// Writes words in a row, from the lowest on.
#[inline(always)]
pub fn write_words<const N: usize>(to: u64, words: &[u64; N]) -> Result<(), Fault> {
    if !is_guest(to) {
        return Err(Fault);
    }
    let mut done = 1u32;
    for (index, word) in words.iter().enumerate() {
        // SAFETY: writes memory of the guest, as the CPU allows it; a fault leaves zero behind. Words in a row cannot get from
        // the guest's addresses to the hypervisor's without a fault.
        unsafe {
            core::arch::asm!(
                "mov {all:e}, {done:e}",
                "xor {done:e}, {done:e}",
                "2: mov [{to}], {word}",
                "mov {done:e}, {all:e}",
                "3:",
                ".pushsection ex_table, \"a\"",
                ".quad 2b, 3b",
                ".popsection",
                to = in(reg) to.wrapping_add(index as u64 * 8),
                word = in(reg) *word,
                done = inout(reg) done,
                all = out(reg) _,
                options(nostack),
            );
        }
    }
    if done != 0 { Ok(()) } else { Err(Fault) }
}
