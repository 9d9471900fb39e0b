//! Ways through the hypervisor that differ between machines, without a branch: at the start, on the first CPU, jumps to the other way are
//! written over instructions of the plain one. Sections of the image say where (`targets/x86_64.ld`).

use x86_64::registers::control::{Cr0, Cr0Flags};

/// A place in the text, and where it goes on instead.
#[repr(C)]
pub struct Site {
    place: u64,
    instead: u64,
}

/// Writes the jumps of the sites between two symbols into the text.
///
/// # Safety
/// The linker puts whole sites between the two. Each is a place with instructions of five bytes or more and what is to run instead of
/// them. This CPU alone runs, with interrupts masked, and does not run what is changed.
pub unsafe fn take_over(start: *const [Site; 0], end: *const [Site; 0]) {
    const JUMP: u8 = 0xe9;
    const BYTES: u64 = 5;
    let count = (end as usize - start as usize) / size_of::<Site>();
    // SAFETY: constants of the image.
    let sites: &[Site] = unsafe { core::slice::from_raw_parts(start.cast(), count) };
    // SAFETY: text is not writable; for these few bytes the CPU does not look at that. The write of CR0 behind them makes the CPU
    // fetch anew.
    unsafe {
        Cr0::update(|cr0| cr0.remove(Cr0Flags::WRITE_PROTECT));
        for site in sites {
            let distance = site.instead.wrapping_sub(site.place + BYTES) as u32;
            let [a, b, c, d] = distance.to_le_bytes();
            (site.place as *mut [u8; 5]).write_volatile([JUMP, a, b, c, d]);
        }
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
    }
}
