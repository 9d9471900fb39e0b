//! Error codes that a hypercall answers with.
//!
//! Header: `errno.h`. A call returns a small non-negative result or the negated code. The two codes
//! that the header marks internal to the hypervisor (`EINTR`, `ERESTART`) are left out on purpose:
//! a preempted call is a value in Xenolith and must never be seen by a guest.

use core::fmt;

macro_rules! errnos {
    ($($(#[$meta:meta])* $name:ident = $value:expr,)+) => {
        /// An error code of the Xen ABI, named as in the header without the `XEN_` prefix.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Errno {
            $($(#[$meta])* $name = $value,)+
        }

        impl Errno {
            /// Every code, in rising order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The code with this number, if the ABI has one.
            #[must_use]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The name in the header, without the `XEN_` prefix.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }
        }
    };
}

errnos! {
    /// The caller may not do this.
    EPERM = 1,
    /// The named thing does not exist.
    ENOENT = 2,
    /// The named domain does not exist, or the caller has no business with it.
    ESRCH = 3,
    /// A device or an emulated device failed.
    EIO = 5,
    /// No such device or address.
    ENXIO = 6,
    /// An argument list is too long.
    E2BIG = 7,
    /// An image has no usable executable format.
    ENOEXEC = 8,
    /// A handle is not valid.
    EBADF = 9,
    /// There is no child to wait for.
    ECHILD = 10,
    /// Not possible now; the same call may succeed later.
    EAGAIN = 11,
    /// Not enough memory.
    ENOMEM = 12,
    /// Wrong interface version, or access refused.
    EACCES = 13,
    /// A pointer of the caller cannot be read or written.
    EFAULT = 14,
    /// The object is in use.
    EBUSY = 16,
    /// The object is there already.
    EEXIST = 17,
    /// The objects belong to different owners.
    EXDEV = 18,
    /// No such device.
    ENODEV = 19,
    /// Not a directory.
    ENOTDIR = 20,
    /// Is a directory.
    EISDIR = 21,
    /// An argument has a value that is not allowed.
    EINVAL = 22,
    /// A table of the system is full.
    ENFILE = 23,
    /// A table of the caller is full.
    EMFILE = 24,
    /// No room left.
    ENOSPC = 28,
    /// The store is read only.
    EROFS = 30,
    /// Too many links.
    EMLINK = 31,
    /// A number is outside the domain of the function.
    EDOM = 33,
    /// A result or an amount does not fit.
    ERANGE = 34,
    /// Going on would deadlock.
    EDEADLK = 35,
    /// A name is too long.
    ENAMETOOLONG = 36,
    /// No lock is to be had.
    ENOLCK = 37,
    /// The hypercall or sub-operation is not implemented.
    ENOSYS = 38,
    /// A directory is not empty.
    ENOTEMPTY = 39,
    /// There is no data.
    ENODATA = 61,
    /// The time has passed already.
    ETIME = 62,
    /// A message is malformed.
    EBADMSG = 74,
    /// A value is too large for its type.
    EOVERFLOW = 75,
    /// A byte sequence is malformed.
    EILSEQ = 84,
    /// Not a socket.
    ENOTSOCK = 88,
    /// A message is too long.
    EMSGSIZE = 90,
    /// The operation is known, but not supported here.
    EOPNOTSUPP = 95,
    /// The address is taken.
    EADDRINUSE = 98,
    /// The address is not to be had.
    EADDRNOTAVAIL = 99,
    /// No buffer space.
    ENOBUFS = 105,
    /// Connected already.
    EISCONN = 106,
    /// Not connected.
    ENOTCONN = 107,
    /// It took too long.
    ETIMEDOUT = 110,
    /// The other side refused.
    ECONNREFUSED = 111,
}

impl Errno {
    /// Alias of [`Errno::EAGAIN`].
    pub const EWOULDBLOCK: Self = Self::EAGAIN;
    /// Alias of [`Errno::EDEADLK`].
    pub const EDEADLOCK: Self = Self::EDEADLK;

    /// The positive number in the header.
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// What a failing hypercall returns: the negated number.
    #[must_use]
    pub const fn neg(self) -> isize {
        -(self as u8 as isize)
    }

    /// The negated number as the `int` that some structs carry.
    #[must_use]
    pub const fn neg_i32(self) -> i32 {
        -(self as u8 as i32)
    }

    /// The error in a hypercall's result; `None` if the result is a success or no known code.
    #[must_use]
    pub const fn from_result(result: isize) -> Option<Self> {
        if result < 0 && result >= -(u8::MAX as isize) {
            Self::from_number(result.unsigned_abs() as u32)
        } else {
            None
        }
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl core::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::Errno;

    #[test]
    fn a_code_survives_the_way_through_a_result_register() {
        for &errno in Errno::ALL {
            assert_eq!(Errno::from_result(errno.neg()), Some(errno));
        }
    }

    #[test]
    fn a_success_or_an_unknown_code_is_no_error_code() {
        for result in [0, 1, isize::MAX, -4, -85, -4095, isize::MIN] {
            assert_eq!(Errno::from_result(result), None);
        }
    }
}
