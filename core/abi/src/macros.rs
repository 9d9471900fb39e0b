//! Two small macros that keep the numbered lists of the ABI readable.
//!
//! `wire_enum!` makes an enum of numbers with a checked conversion; `wire_flags!` makes a set of
//! bits that may stand in a wire struct, where bits unknown to us are kept and not lost.

/// An enum of ABI numbers: `TryFrom<repr>` answers an unknown number with the given `Errno`.
macro_rules! wire_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident: $repr:ident, unknown is $errno:ident {
            $($(#[$vmeta:meta])* $variant:ident = $value:expr,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr($repr)]
        pub enum $name {
            $($(#[$vmeta])* $variant = $value,)+
        }

        impl $name {
            /// Every value, in the order of the list above.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number as it stands on the wire.
            #[must_use]
            pub const fn number(self) -> $repr {
                self as $repr
            }
        }

        impl TryFrom<$repr> for $name {
            type Error = $crate::errno::Errno;

            fn try_from(number: $repr) -> Result<Self, $crate::errno::Errno> {
                match number {
                    $($value => Ok(Self::$variant),)+
                    _ => Err($crate::errno::Errno::$errno),
                }
            }
        }
    };
}

/// A set of flag bits that may be a field of a wire struct.
macro_rules! wire_flags {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $repr:ident {
            $($(#[$fname:ident $($fargs:tt)*])* const $flag:ident = $value:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, Hash,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout,
        )]
        #[repr(transparent)]
        pub struct $name(pub $repr);

        bitflags::bitflags! {
            impl $name: $repr {
                $($(#[$fname $($fargs)*])* const $flag = $value;)*
            }
        }
    };
}
