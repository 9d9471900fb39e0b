//! What is known of boards without a device tree, to tell that there is none. Everything else comes from the tree.

xenolith_arch_aarch64::known_uarts!([
    // QEMU's virt machine: its PL011 itself.
    #[cfg(feature = "pl011")]
    xenolith_arch_aarch64::boot::KnownUart {
        part_at: 0x0900_0000,
        part: 0x011,
        kind: xenolith_arch_aarch64::UartKind::Pl011,
        uart_at: 0x0900_0000,
    },
    // Zynq UltraScale+ (ZCU102): the GIC-400's distributor stands where no other chip has one; the UART cannot be asked.
    #[cfg(feature = "cadence")]
    xenolith_arch_aarch64::boot::KnownUart {
        part_at: 0xf901_0000,
        part: 0x490,
        kind: xenolith_arch_aarch64::UartKind::Cadence,
        uart_at: 0xff00_0000,
    },
]);
