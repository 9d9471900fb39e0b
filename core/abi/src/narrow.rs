//! The form that structures have for 32-bit callers on x86, beside the one that everybody else has.
//!
//! Headers: `arch-x86/xen-x86_32.h` and the structures themselves, laid out as a 32-bit compiler does: a pointer, an
//! `unsigned long` and a frame number have four bytes, and nothing needs more than four bytes of alignment. What the core
//! reads and writes is always the wide form; only [`Form`] knows the narrow one. The table at the end lists every
//! structure that differs: its fields in order, with `long` before those of four bytes. Each other structure is listed as being
//! the same, so that none is forgotten: one in neither list cannot be read from a guest. `tests/narrow` compares
//! both lists with the headers.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A value that guests and hypervisor exchange.
pub trait Wire {
    /// How it stands in the memory of a 32-bit caller, where that is another way.
    const NARROW: Option<&'static Form> = None;
}

/// The most bytes that a narrow form has.
pub const MOST: usize = 64;

/// The narrow form of a structure.
#[derive(Debug)]
pub struct Form {
    /// Its bytes, padding at the end included.
    pub size: usize,
    /// Its fields.
    pub fields: &'static [Field],
}

/// A field, or an array of equal ones, in both forms.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its first byte in the wide form.
    pub wide: usize,
    /// Its first byte in the narrow form.
    pub narrow: usize,
    /// Bytes in the wide form.
    pub wide_len: usize,
    /// Bytes in the narrow form.
    pub narrow_len: usize,
}

impl Form {
    /// Puts a narrow value where the wide one shall stand, which is all zeroes before.
    pub fn widen(&self, narrow: &[u8], wide: &mut [u8]) {
        for (from, to, len) in self.runs() {
            if let (Some(from), Some(to)) =
                (narrow.get(from..from + len), wide.get_mut(to..to + len))
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// Puts a wide value where the narrow one shall stand. What does not fit is cut off.
    pub fn narrow(&self, wide: &[u8], narrow: &mut [u8]) {
        for (to, from, len) in self.runs() {
            if let (Some(from), Some(to)) =
                (wide.get(from..from + len), narrow.get_mut(to..to + len))
            {
                to.copy_from_slice(from);
            }
        }
    }

    /// Where a field begins in the narrow form that begins at `wide` in the other.
    #[must_use]
    pub fn place(&self, wide: usize) -> Option<usize> {
        let field = self.fields.iter().find(|field| field.wide == wide)?;
        Some(field.narrow)
    }

    /// What is copied: where in the narrow form, where in the wide one, how many bytes.
    fn runs(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        self.fields.iter().flat_map(|field| {
            let (unit, wide_unit) = field.units();
            let count = field.narrow_len / unit;
            (0..count).map(move |n| (field.narrow + n * unit, field.wide + n * wide_unit, unit))
        })
    }
}

impl Field {
    /// Bytes that are copied at once in both forms: all, or one `long`.
    const fn units(&self) -> (usize, usize) {
        if self.narrow_len == self.wide_len {
            (self.narrow_len, self.wide_len)
        } else {
            (4, 8)
        }
    }
}

/// A field as the table has it: first byte, bytes and alignment in the wide form, and whether it is made of longs.
type Listed = (usize, (usize, usize), bool);

/// Lays fields out as a 32-bit compiler does.
const fn lay_out<const N: usize>(listed: [Listed; N]) -> [Field; N] {
    let mut fields = [Field {
        wide: 0,
        narrow: 0,
        wide_len: 0,
        narrow_len: 0,
    }; N];
    let (mut n, mut at) = (0, 0usize);
    while n < N {
        let (wide, (wide_len, align), long) = listed[n];
        let align = if align > 4 { 4 } else { align };
        let narrow = at.next_multiple_of(align);
        let narrow_len = if long { wide_len / 2 } else { wide_len };
        fields[n] = Field {
            wide,
            narrow,
            wide_len,
            narrow_len,
        };
        at = narrow + narrow_len;
        n += 1;
    }
    fields
}

const fn size(fields: &[Field]) -> usize {
    match fields.last() {
        Some(last) => (last.narrow + last.narrow_len).next_multiple_of(4),
        None => 0,
    }
}

/// Bytes and alignment of a field.
const fn shape<T, F>(_: fn(&T) -> &F) -> (usize, usize) {
    (size_of::<F>(), align_of::<F>())
}

macro_rules! is_long {
    () => {
        false
    };
    (long) => {
        true
    };
}

macro_rules! differs {
    ($($name:path { $($([$long:ident])? $($field:ident).+),* $(,)? })*) => {$(
        impl Wire for $name {
            const NARROW: Option<&'static Form> = {
                const FIELDS: &[Field] = &lay_out([$((
                    core::mem::offset_of!($name, $($field).+),
                    shape(|value: &$name| &value.$($field).+),
                    is_long!($($long)?),
                )),*]);
                const _: () = assert!(size(FIELDS) <= MOST);
                Some(&Form { size: size(FIELDS), fields: FIELDS })
            };
        }
    )*};
}

macro_rules! same {
    ($($name:ty),* $(,)?) => {$(
        impl Wire for $name {}
    )*};
}

/// An `unsigned long` or a frame number by itself, as lists have them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(transparent)]
pub struct Long(pub u64);

impl<const N: usize> Wire for [u8; N] {}
impl<const N: usize> Wire for [u32; N] {}

mod list;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{grant_table::GrantCopy, memory::Reservation, multicall::MulticallEntry};

    #[test]
    fn a_narrow_reservation_becomes_the_wide_one_and_back() {
        let form = Reservation::NARROW.unwrap();
        let words = [0x1000_u32, 3, 9, 0x20, 0x7ff0];
        let narrow = words.as_bytes();
        assert_eq!(form.size, narrow.len());
        let mut wide = Reservation::default();
        form.widen(narrow, wide.as_mut_bytes());
        assert_eq!(wide.extent_start.address(), 0x1000);
        assert_eq!((wide.nr_extents, wide.extent_order), (3, 9));
        assert_eq!((wide.mem_flags.0, wide.domid.0), (0x20, 0x7ff0));
        let mut back = [0; 20];
        form.narrow(wide.as_bytes(), &mut back);
        assert_eq!(back, narrow);
    }

    #[test]
    fn an_array_of_longs_moves_one_by_one() {
        let form = MulticallEntry::NARROW.unwrap();
        assert_eq!(form.size, 32);
        let words = [17_u32, 0, 1, 2, 3, 4, 5, 6];
        let mut wide = MulticallEntry::default();
        form.widen(words.as_bytes(), wide.as_mut_bytes());
        assert_eq!((wide.op, wide.args), (17, [1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn a_status_is_found_where_it_stands() {
        let form = GrantCopy::NARROW.unwrap();
        let wide = core::mem::offset_of!(GrantCopy, status);
        assert_eq!((form.size, form.place(wide)), (24, Some(20)));
        assert_eq!(form.place(1), None);
    }
}
