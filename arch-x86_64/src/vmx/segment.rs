//! Access rights of a segment register, in the form of a control structure and in the common one (Intel SDM, volume 3,
//! 25.4.1).

const PRESENT: u16 = 1 << 7;
const UNUSABLE: u32 = 1 << 16;

/// From [`crate::guest::hardware::Segment::attributes`]: the upper four bits move up, and what is not present cannot be
/// used.
#[must_use]
pub const fn to_rights(attributes: u16) -> u32 {
    let rights = attributes as u32 & 0xff | (attributes as u32 & 0xf00) << 4;
    if attributes & PRESENT == 0 {
        rights | UNUSABLE
    } else {
        rights
    }
}

/// The other way; a segment that cannot be used is not present.
#[must_use]
pub const fn from_rights(rights: u32) -> u16 {
    let attributes = (rights & 0xff | rights >> 4 & 0xf00) as u16;
    if rights & UNUSABLE == 0 {
        attributes
    } else {
        attributes & !PRESENT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_the_attributes_with_a_gap() {
        assert_eq!(to_rights(0xa9b), 0xa09b); // 64-bit code
        assert_eq!(to_rights(0xc93), 0xc093);
        assert_eq!(to_rights(0), 0x1_0000);
        for attributes in 0..0x1000 {
            assert_eq!(from_rights(to_rights(attributes)), attributes);
        }
    }

    #[test]
    fn a_null_selector_is_not_present() {
        // As an exit leaves DS of a 64-bit program.
        assert_eq!(from_rights(0x1_c0f3), 0xc73);
    }
}
