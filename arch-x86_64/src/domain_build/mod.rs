//! Building guests: their memory, their ACPI tables and what they find at their entry. Pure; the caller copies.
//!
//! A PV guest is built by [`pv`]. Order of use for a PVH guest: unpack the kernel ([`xenolith_core::boot::bzimage`], [`xenolith_core::boot::elf`]),
//! [`acpi_tables::size`], [`start_info::size`], [`memory_map::plan`], [`acpi_tables::build`], [`start_info::build`]; for a
//! domain beside dom0 [`domu_tables`] and [`domu::plan`] in their places.

pub mod acpi_tables;
pub mod domu;
pub mod domu_tables;
pub mod kind;
pub mod memory_map;
pub mod pv;
pub mod start_info;
