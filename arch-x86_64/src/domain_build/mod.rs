//! Building dom0 as a PVH guest: its memory, its ACPI tables and what it finds at its entry. Pure; the caller copies.
//!
//! Order of use: unpack the kernel ([`xenolith_core::boot::bzimage`], [`xenolith_core::boot::elf`]),
//! [`acpi_tables::size`], [`start_info::size`], [`memory_map::plan`], [`acpi_tables::build`], [`start_info::build`].

pub mod acpi_tables;
pub mod memory_map;
pub mod start_info;
