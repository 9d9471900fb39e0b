//! `console_io`: the emergency console.
//!
//! Header: `xen.h` (`CONSOLEIO_*`). A privileged domain writes to the machine's console as it is; what others write
//! appears as marked lines. Reading takes what was typed for the caller.

use xenolith_abi::console::ConsoleIo;
use xenolith_hal::{GuestVirt, Hal};

use super::Outcome;
use crate::{Errno, guest::Caller};

/// Bytes copied and printed between two looks at pending work.
const CHUNK: usize = 128;

/// Serves `console_io`.
#[inline(never)]
pub fn console_io<H: Hal>(
    caller: Caller<'_, H>,
    cmd: u32,
    count: u32,
    buffer: GuestVirt,
) -> Outcome {
    match ConsoleIo::try_from(cmd) {
        Ok(ConsoleIo::Write) => write(caller, count, buffer),
        Ok(ConsoleIo::Read) => read(caller, count, buffer).into(),
        Err(errno) => errno.into(),
    }
}

fn write<H: Hal>(caller: Caller<'_, H>, count: u32, buffer: GuestVirt) -> Outcome {
    let (hv, domain) = (caller.hv, caller.domain());
    let mut chunk = [0; CHUNK];
    let mut at = buffer;
    let mut left = count as usize;
    while left > 0 {
        if left != count as usize && hv.hal.interrupt_waits() {
            return Outcome::Again([ConsoleIo::Write.number().into(), left as u64, at.0, 0, 0]);
        }
        let (chunk, _) = chunk.split_at_mut(left.min(CHUNK));
        if let Err(errno) = caller.read_bytes(at, chunk) {
            return errno.into();
        }
        if domain.config.privileged {
            hv.console.write_raw(&hv.hal, chunk);
        } else {
            hv.console.guest_lines(hv, domain, chunk);
        }
        at = at.plus(chunk.len() as u64);
        left -= chunk.len();
    }
    Outcome::Done(0)
}

/// A copy that faults loses nothing: what was typed is taken from the ring only when the guest has it.
fn read<H: Hal>(caller: Caller<'_, H>, count: u32, buffer: GuestVirt) -> Result<i64, Errno> {
    let (console, domain) = (&caller.hv.console, caller.domain());
    if !domain.config.privileged && !console.has_focus(domain.id()) {
        return Err(Errno::EPERM);
    }
    // The count comes back as the result, which must not look like an error.
    let count = i32::try_from(count).map_err(|_| Errno::E2BIG)? as usize;
    let mut done = 0;
    while done < count {
        let typed = console.typed_for(domain);
        let part = typed
            .bytes()
            .get(..typed.bytes().len().min(count - done))
            .unwrap_or_default();
        if part.is_empty() {
            break;
        }
        caller.write_bytes(buffer.plus(done as u64), part)?;
        console.take_typed(&typed, part.len());
        done += part.len();
    }
    Ok(done as i64)
}

#[cfg(test)]
mod tests {
    use crate::{
        console::Focus,
        hypercall::{Outcome, rig::*},
    };
    use xenolith_abi::{Errno, Nr};
    use xenolith_hal::CpuId;

    fn write(rig: &Rig, from: u16, text: &[u8; 8]) -> Result<i64, Errno> {
        rig.hv_write(from, PAGE, text);
        rig.call(from, Nr::ConsoleIo, [0, 8, PAGE, 0, 0])
    }

    #[test]
    fn dom0_writes_as_it_likes_and_others_in_marked_lines() {
        let rig = Rig::new();
        assert_eq!(write(&rig, 0, b"\x1b[1mhi\nx"), Ok(0));
        assert_eq!(rig.hv.hal.take_console(), "\x1b[1mhi\r\nx");
        assert_eq!(write(&rig, 1, b"\x1b[1mhi\nx"), Ok(0));
        assert_eq!(rig.hv.hal.take_console(), "\r\n(d1) [1mhi\r\n");
        assert_eq!(write(&rig, 1, b"y\t\0\r\x7f\xffz\n"), Ok(0));
        assert_eq!(rig.hv.hal.take_console(), "(d1) xy\tz\r\n");
    }

    #[test]
    fn a_long_write_gives_way_and_goes_on() {
        let rig = Rig::new();
        rig.hv_write(0, PAGE, &[b'a'; 300]);
        rig.hv.hal.cpu_record(CpuId(0)).interrupt_after(0);
        let first = rig.raw(0, 18, [0, 300, PAGE, 5, 6]);
        assert_eq!(first, Outcome::Again([0, 172, PAGE + 128, 5, 6]));
        assert_eq!(
            rig.call(0, Nr::ConsoleIo, [0, 172, PAGE + 128, 0, 0]),
            Ok(0)
        );
        assert_eq!(rig.hv.hal.take_console(), "a".repeat(300));
    }

    #[test]
    fn what_was_typed_is_read_once() {
        let rig = Rig::new();
        for byte in b"hello" {
            rig.hv.console.input(&rig.hv, *byte);
        }
        assert_eq!(
            rig.call(0, Nr::ConsoleIo, [1, 5, NOWHERE, 0, 0]),
            Err(Errno::EFAULT)
        );
        assert_eq!(rig.call(0, Nr::ConsoleIo, [1, 2, PAGE, 0, 0]), Ok(2));
        assert_eq!(rig.call(0, Nr::ConsoleIo, [1, 100, PAGE + 2, 0, 0]), Ok(3));
        assert_eq!(&rig.hv_read::<[u8; 5]>(0, PAGE), b"hello");
        assert_eq!(rig.call(0, Nr::ConsoleIo, [1, 100, PAGE, 0, 0]), Ok(0));
        assert_eq!(
            rig.call(0, Nr::ConsoleIo, [1, 1 << 31, PAGE, 0, 0]),
            Err(Errno::E2BIG)
        );
    }

    #[test]
    fn only_the_domain_with_the_focus_reads() {
        let rig = Rig::new();
        assert_eq!(
            rig.call(1, Nr::ConsoleIo, [1, 4, PAGE, 0, 0]),
            Err(Errno::EPERM)
        );
        rig.hv.console.input(&rig.hv, b'0');
        rig.hv.console.set_focus(Focus::Domain(crate::DomId(1)));
        rig.hv.console.input(&rig.hv, b'1');
        assert_eq!(rig.call(0, Nr::ConsoleIo, [1, 4, PAGE, 0, 0]), Ok(0));
        assert_eq!(rig.call(1, Nr::ConsoleIo, [1, 4, PAGE, 0, 0]), Ok(1));
        assert_eq!(rig.hv_read::<u8>(1, PAGE), b'1');
    }

    #[test]
    fn bad_arguments_are_refused() {
        let rig = Rig::new();
        assert_eq!(
            rig.call(0, Nr::ConsoleIo, [0, 4, NOWHERE, 0, 0]),
            Err(Errno::EFAULT)
        );
        assert_eq!(
            rig.call(0, Nr::ConsoleIo, [2, 4, PAGE, 0, 0]),
            Err(Errno::ENOSYS)
        );
        assert_eq!(rig.call(0, Nr::ConsoleIo, [0, 0, NOWHERE, 0, 0]), Ok(0));
    }
}
