//! The memory of the guest whose address space is loaded, at the guest's own addresses. What is not there, or may not be
//! written, is an error; what is the hypervisor's is never touched.
//!
//! Each access is there twice. Where SMAP holds ([`super::smap`]), a jump at the first instruction of the one leads to the other,
//! which says that it is meant (STAC, CLAC): CPUs without it pay nothing.

use core::arch::global_asm;

use xenolith_hal::Fault;

pub use super::memory::is_guest_address as is_guest;

global_asm!(
    r#"
    .section .text.pv_copy, "ax"
    .balign 16
    .global pv_copy
pv_copy:                                // rdi: to, rsi: from, rdx: bytes
    movl    %edx, %ecx                  // five bytes, with the next
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
    .quad   1b, 3b, 4b
    .popsection

pv_copy_meant:
    movl    %edx, %ecx
    shrl    $3, %ecx
    stac
1:  rep movsq
    andl    $7, %edx
    jz      3f
    movl    %edx, %ecx
2:  rep movsb
3:  clac
    xorl    %eax, %eax
    retq
4:  clac
    movl    $1, %eax
    retq
    .pushsection ex_table, "a"
    .quad   1b, 3b, 4b
    .popsection
    .pushsection smap_sites, "a"
    .quad   pv_copy, pv_copy_meant
    .popsection
    .text
    "#,
    options(att_syntax),
);

unsafe extern "C" {
    fn pv_copy(to: *mut u8, from: *const u8, bytes: usize) -> u32;
}

/// Whether an address is not the hypervisor's. What is no address at all faults where it is used, so this is enough for words that
/// are used.
#[inline(always)]
#[must_use]
pub const fn is_not_own(address: u64) -> bool {
    /// The hypervisor's part is one of these pieces, the first of the upper half.
    const PIECE: u32 = 43;
    const HYPERVISOR: i64 = 0xffff_8000_0000_0000_u64.cast_signed() >> PIECE;
    address.cast_signed() >> PIECE != HYPERVISOR
}

/// Longer copies are not asked for.
const MOST: usize = 1 << 30;

/// Copies in.
#[inline(always)]
pub fn read(from: u64, to: &mut [u8]) -> Result<(), Fault> {
    // Lengths are known where this is compiled in, so that one of these ways is.
    if let Ok(word) = <&mut [u8; 4]>::try_from(&mut *to) {
        *word = read_half(from)?.to_ne_bytes();
        return Ok(());
    }
    if let Ok(word) = <&mut [u8; 8]>::try_from(&mut *to) {
        *word = read_word(from)?.to_ne_bytes();
        return Ok(());
    }
    if let Ok(all) = <&mut [u8; 16]>::try_from(&mut *to) {
        put(all, &read_2(from)?);
        return Ok(());
    }
    if let Ok(all) = <&mut [u8; 24]>::try_from(&mut *to) {
        put(all, &read_3(from)?);
        return Ok(());
    }
    if let Ok(all) = <&mut [u8; 32]>::try_from(&mut *to) {
        put(all, &read_4(from)?);
        return Ok(());
    }
    if let Ok(all) = <&mut [u8; 40]>::try_from(&mut *to) {
        put(all, &read_5(from)?);
        return Ok(());
    }
    if let Ok(all) = <&mut [u8; 64]>::try_from(&mut *to) {
        put(all, &read_8(from)?);
        return Ok(());
    }
    if !is_guest(from) || to.len() > MOST {
        return Err(Fault);
    }
    // SAFETY: `to` is the caller's; the other side cannot reach the hypervisor's addresses, as a hole of addresses that do not
    // exist lies before them, and a fault there ends the copy.
    match unsafe { pv_copy(to.as_mut_ptr(), from as *const u8, to.len()) } {
        0 => Ok(()),
        _ => Err(Fault),
    }
}

#[inline(always)]
fn put(to: &mut [u8], words: &[u64]) {
    for (place, word) in to.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_ne_bytes();
    }
}

/// Copies out.
#[inline(always)]
pub fn write(to: u64, from: &[u8]) -> Result<(), Fault> {
    if let Ok(quarter) = <&[u8; 2]>::try_from(from) {
        return write_quarter(to, u16::from_ne_bytes(*quarter));
    }
    if let Ok(half) = <&[u8; 4]>::try_from(from) {
        return write_half(to, u32::from_ne_bytes(*half));
    }
    if let Ok(word) = <&[u8; 8]>::try_from(from) {
        return write_word(to, u64::from_ne_bytes(*word));
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

/// A read of words in a row into registers: a fault in any of them leaves `read` zero.
macro_rules! reader {
    ($name:ident, $count:literal, $mov:literal, $word:ty, $($value:ident $at:literal)*) => {
        /// Reads words in a row.
        #[inline(always)]
        pub fn $name(from: u64) -> Result<[$word; $count], Fault> {
            if !is_not_own(from) {
                return Err(Fault);
            }
            let read: u32;
            $(let $value: $word;)*
            // SAFETY: reads memory of the guest, into registers.
            unsafe {
                core::arch::asm!(
                    "20: mov {read:e}, 0",
                    "2:",
                    $(concat!("mov {", stringify!($value), $mov, "}, [{from} + ", $at, "]"),)*
                    "3: mov {read:e}, 1",
                    "4:",
                    ".pushsection .text.pv_meant, \"ax\"",
                    "21: mov {read:e}, 0",
                    "stac",
                    "22:",
                    $(concat!("mov {", stringify!($value), $mov, "}, [{from} + ", $at, "]"),)*
                    "23: mov {read:e}, 1",
                    "24: clac",
                    "jmp 4b",
                    ".popsection",
                    ".pushsection ex_table, \"a\"",
                    ".quad 2b, 3b, 4b, 22b, 23b, 24b",
                    ".popsection",
                    ".pushsection smap_sites, \"a\"",
                    ".quad 20b, 21b",
                    ".popsection",
                    from = in(reg) from,
                    $($value = out(reg) $value,)*
                    read = out(reg) read,
                    options(nostack, readonly),
                );
            }
            if read != 0 { Ok([$($value),*]) } else { Err(Fault) }
        }
    };
}

reader!(read_one_half, 1, ":e", u32, a 0);
reader!(read_1, 1, "", u64, a 0);
reader!(read_2, 2, "", u64, a 0 b 8);
reader!(read_3, 3, "", u64, a 0 b 8 c 16);
reader!(read_4, 4, "", u64, a 0 b 8 c 16 d 24);
reader!(read_5, 5, "", u64, a 0 b 8 c 16 d 24 e 32);
reader!(read_8, 8, "", u64, a 0 b 8 c 16 d 24 e 32 f 40 g 48 h 56);
reader!(read_9, 9, "", u64, a 0 b 8 c 16 d 24 e 32 f 40 g 48 h 56 i 64);

/// Reads 32 bits.
#[inline(always)]
pub fn read_half(from: u64) -> Result<u32, Fault> {
    read_one_half(from).map(|[word]| word)
}

/// Reads a word.
#[inline(always)]
pub fn read_word(from: u64) -> Result<u64, Fault> {
    read_1(from).map(|[word]| word)
}

/// Reads nine words in a row.
#[inline(always)]
pub fn read_9_words(from: u64) -> Result<[u64; 9], Fault> {
    read_9(from)
}

/// A write of words in a row, from the lowest on: a fault in any of them leaves `done` zero, and those behind it unwritten.
macro_rules! writer {
    ($name:ident, $count:literal, $mov:literal, $word:ty, $($value:ident $at:literal)*) => {
        #[inline(always)]
        fn $name(to: u64, [$($value),*]: [$word; $count]) -> Result<(), Fault> {
            if !is_not_own(to) {
                return Err(Fault);
            }
            let done: u32;
            // SAFETY: writes memory of the guest, as the CPU allows it. Words in a row cannot get from the guest's addresses to the
            // hypervisor's without a fault.
            unsafe {
                core::arch::asm!(
                    "20: mov {done:e}, 0",
                    "2:",
                    $(concat!("mov [{to} + ", $at, "], {", stringify!($value), $mov, "}"),)*
                    "3: mov {done:e}, 1",
                    "4:",
                    ".pushsection .text.pv_meant, \"ax\"",
                    "21: mov {done:e}, 0",
                    "stac",
                    "22:",
                    $(concat!("mov [{to} + ", $at, "], {", stringify!($value), $mov, "}"),)*
                    "23: mov {done:e}, 1",
                    "24: clac",
                    "jmp 4b",
                    ".popsection",
                    ".pushsection ex_table, \"a\"",
                    ".quad 2b, 3b, 4b, 22b, 23b, 24b",
                    ".popsection",
                    ".pushsection smap_sites, \"a\"",
                    ".quad 20b, 21b",
                    ".popsection",
                    to = in(reg) to,
                    $($value = in(reg) $value,)*
                    done = out(reg) done,
                    options(nostack),
                );
            }
            if done != 0 { Ok(()) } else { Err(Fault) }
        }
    };
}

writer!(write_one_quarter, 1, ":x", u16, a 0);
writer!(write_one_half, 1, ":e", u32, a 0);
writer!(write_1, 1, "", u64, a 0);
writer!(write_4, 4, "", u64, a 0 b 8 c 16 d 24);
writer!(write_7, 7, "", u64, a 0 b 8 c 16 d 24 e 32 f 40 g 48);
writer!(write_8, 8, "", u64, a 0 b 8 c 16 d 24 e 32 f 40 g 48 h 56);

/// Writes 16 bits.
#[inline(always)]
pub fn write_quarter(to: u64, word: u16) -> Result<(), Fault> {
    write_one_quarter(to, [word])
}

/// Writes 32 bits.
#[inline(always)]
pub fn write_half(to: u64, word: u32) -> Result<(), Fault> {
    write_one_half(to, [word])
}

/// Writes a word.
#[inline(always)]
pub fn write_word(to: u64, word: u64) -> Result<(), Fault> {
    write_1(to, [word])
}

/// Writes words in a row, from the lowest on.
#[inline(always)]
pub fn write_words<const N: usize>(to: u64, words: &[u64; N]) -> Result<(), Fault> {
    if let Ok(words) = <&[u64; 4]>::try_from(&words[..]) {
        return write_4(to, *words);
    }
    if let Ok(words) = <&[u64; 7]>::try_from(&words[..]) {
        return write_7(to, *words);
    }
    if let Ok(words) = <&[u64; 8]>::try_from(&words[..]) {
        return write_8(to, *words);
    }
    for (word, index) in words.iter().zip(0u64..) {
        write_word(to.wrapping_add(index * 8), *word)?;
    }
    Ok(())
}
