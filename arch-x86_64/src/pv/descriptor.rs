//! Which segment descriptors a PV guest may have (AMD APM, volume 2, 4.7 and 4.8): code and data of ring 3. What would lead to
//! another ring, a gate or a system segment among it, is refused.

/// A descriptor of the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor(pub u64);

const PRESENT: u64 = 1 << 47;
const DPL: u64 = 3 << 45;
const MEMORY: u64 = 1 << 44;
const CODE: u64 = 1 << 43;
const LONG: u64 = 1 << 53;
const BIG: u64 = 1 << 54;

impl Descriptor {
    /// The descriptor as the CPU may see it; `None` for one that it may not. A privilege below ring 3 becomes ring 3, which is what
    /// kernels that set up rings 0 and 1 get.
    #[must_use]
    pub const fn checked(self) -> Option<Self> {
        if self.0 & PRESENT == 0 {
            return Some(self);
        }
        if self.0 & MEMORY == 0 || self.0 & (CODE | LONG | BIG) == CODE | LONG | BIG {
            return None;
        }
        Some(Self(self.0 | DPL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_data_of_ring_3_stay_as_they_are() {
        for good in [
            0,
            0x00af_fb00_0000_ffff,
            0x00cf_f300_0000_ffff,
            0x00cf_fb00_0000_ffff,
        ] {
            assert_eq!(Descriptor(good).checked(), Some(Descriptor(good)));
        }
    }

    #[test]
    fn a_lower_ring_becomes_ring_3() {
        for ring in 0..3 {
            let asked = Descriptor(0x00af_9b00_0000_ffff | ring << 45);
            assert_eq!(asked.checked(), Some(Descriptor(0x00af_fb00_0000_ffff)));
        }
    }

    #[test]
    fn what_is_not_present_may_be_anything() {
        for kind in 0..32 {
            let absent = Descriptor(kind << 40 | 0xffff);
            assert_eq!(absent.checked(), Some(absent));
        }
    }

    #[test]
    fn gates_and_system_segments_are_refused_in_every_ring() {
        for kind in 0..16 {
            for ring in 0..4 {
                let system = Descriptor(PRESENT | kind << 40 | ring << 45);
                assert_eq!(system.checked(), None, "type {kind} ring {ring}");
            }
        }
    }

    #[test]
    fn code_of_two_sizes_at_once_is_refused() {
        assert_eq!(Descriptor(0x00ef_fb00_0000_ffff).checked(), None);
    }
}
