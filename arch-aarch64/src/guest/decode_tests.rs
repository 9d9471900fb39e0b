//! Real encodings, as GNU `as` makes them, and every word in between.

use std::{format, string::String};

use proptest::prelude::*;

use super::*;

/// The transfer as text: direction, bytes, register (with `s` where sign-extended, `w` where the register is narrow),
/// then base, offset and index.
fn show(word: u32) -> String {
    let Some(t) = Transfer::decode(word) else {
        return "-".into();
    };
    let way = if t.write { "st" } else { "ld" };
    let sign = if t.access.signed { "s" } else { "" };
    let file = if t.access.wide { "x" } else { "w" };
    let second = t.second.map_or(String::new(), |r| format!(",{file}{r}"));
    let base = match t.base {
        Base::Pc => "pc".into(),
        Base::Register(r) => format!("{r}"),
    };
    let offset = match t.offset {
        Offset::Immediate(n) => format!("{n}"),
        Offset::Register { reg, extend, shift } => format!("{extend:?} {reg}<<{shift}"),
    };
    let mark = match t.index {
        Index::Offset => "",
        Index::Pre => "!",
        Index::Post => " post",
    };
    format!(
        "{way}{}{sign} {file}{}{second} [{base}+{offset}]{mark}",
        t.access.size.bytes(),
        t.access.reg
    )
}

#[test]
fn real_encodings_are_decoded() {
    for (word, expected) in [
        (0xb840_4441, "ld4 w1 [2+4] post"),         // ldr w1, [x2], #4
        (0xf85f_8c83, "ld8 x3 [4+-8]!"),            // ldr x3, [x4, #-8]!
        (0xb810_07e5, "st4 w5 [31+-256] post"),     // str w5, [sp], #-256
        (0x380f_fce6, "st1 w6 [7+255]!"),           // strb w6, [x7, #255]!
        (0x7800_2528, "st2 w8 [9+2] post"),         // strh w8, [x9], #2
        (0x3840_156a, "ld1 w10 [11+1] post"),       // ldrb w10, [x11], #1
        (0x38c0_1dac, "ld1s w12 [13+1]!"),          // ldrsb w12, [x13, #1]!
        (0x3880_1dac, "ld1s x12 [13+1]!"),          // ldrsb x12, [x13, #1]!
        (0x78df_e5ee, "ld2s w14 [15+-2] post"),     // ldrsh w14, [x15], #-2
        (0x789f_e5ee, "ld2s x14 [15+-2] post"),     // ldrsh x14, [x15], #-2
        (0xb880_4630, "ld4s x16 [17+4] post"),      // ldrsw x16, [x17], #4
        (0xf900_043f, "st8 x31 [1+8]"),             // str xzr, [x1, #8]
        (0xb97f_fc20, "ld4 w0 [1+16380]"),          // ldr w0, [x1, #16380]
        (0x2940_0440, "ld4 w0,w1 [2+0]"),           // ldp w0, w1, [x2]
        (0xa960_0440, "ld8 x0,x1 [2+-512]"),        // ldp x0, x1, [x2, #-512]
        (0xa881_10a3, "st8 x3,x4 [5+16] post"),     // stp x3, x4, [x5], #16
        (0x29bf_1fe6, "st4 w6,w7 [31+-8]!"),        // stp w6, w7, [sp, #-8]!
        (0x695f_a548, "ld4s x8,x9 [10+252]"),       // ldpsw x8, x9, [x10, #252]
        (0x68e0_2548, "ld4s x8,x9 [10+-256] post"), // ldpsw x8, x9, [x10], #-256
        (0xa85f_8440, "ld8 x0,x1 [2+504]"),         // ldnp x0, x1, [x2, #504]
        (0x2800_0440, "st4 w0,w1 [2+0]"),           // stnp w0, w1, [x2]
        (0xb85f_f083, "ld4 w3 [4+-1]"),             // ldur w3, [x4, #-1]
        (0x380f_f0c5, "st1 w5 [6+255]"),            // sturb w5, [x6, #255]
        (0xb89f_c107, "ld4s x7 [8+-4]"),            // ldursw x7, [x8, #-4]
        (0xf863_6841, "ld8 x1 [2+Whole 3<<0]"),     // ldr x1, [x2, x3]
        (0xb863_5841, "ld4 w1 [2+Uxtw 3<<2]"),      // ldr w1, [x2, w3, uxtw #2]
        (0x7823_c841, "st2 w1 [2+Sxtw 3<<0]"),      // strh w1, [x2, w3, sxtw]
        (0x38a3_ebe1, "ld1s x1 [31+Whole 3<<0]"),   // ldrsb x1, [sp, x3, sxtx]
        (0xf823_7841, "st8 x1 [2+Whole 3<<3]"),     // str x1, [x2, x3, lsl #3]
        (0xf840_8841, "ld8 x1 [2+8]"),              // ldtr x1, [x2, #8]
        (0x3800_0841, "st1 w1 [2+0]"),              // sttrb w1, [x2]
        (0x88df_fc41, "ld4 w1 [2+0]"),              // ldar w1, [x2]
        (0xc89f_fc41, "st8 x1 [2+0]"),              // stlr x1, [x2]
        (0x08df_7c41, "ld1 w1 [2+0]"),              // ldlarb w1, [x2]
        (0xb8bf_c041, "ld4 w1 [2+0]"),              // ldapr w1, [x2]
        (0xd95f_8041, "ld8 x1 [2+-8]"),             // ldapur x1, [x2, #-8]
        (0x5900_2041, "st2 w1 [2+2]"),              // stlurh w1, [x2, #2]
        (0x5800_0041, "ld8 x1 [pc+8]"),             // ldr x1, .+8
        (0x98ff_ffe2, "ld4s x2 [pc+-4]"),           // ldrsw x2, .-4
    ] {
        assert_eq!(show(word), expected, "{word:#010x}");
    }
}

#[test]
fn what_devices_do_not_serve_is_refused() {
    for (word, what) in [
        (0x885f_7c41, "ldxr w1, [x2]"),
        (0x8803_7c41, "stxr w3, w1, [x2]"),
        (0xc87f_8861, "ldaxp x1, x2, [x3]"),
        (0x88a1_7c62, "cas w1, w2, [x3]"),
        (0xb821_0062, "ldadd w1, w2, [x3]"),
        (0xf821_8062, "swp x1, x2, [x3]"),
        (0x3dc0_0020, "ldr q0, [x1]"),
        (0x6cc1_0440, "ldp d0, d1, [x2], #16"),
        (0xbc62_6820, "ldr s0, [x1, x2]"),
        (0x4c40_7020, "ld1 {v0.16b}, [x1]"),
        (0xf980_0020, "prfm pldl1keep, [x1]"),
        (0xf880_0020, "prfum pldl1keep, [x1]"),
        (0xf820_0441, "ldraa x1, [x2]"),
        (0x6900_0440, "stgp x0, x1, [x2]"),
        (0xd50b_7420, "dc zva, x0"),
        (0xd503_201f, "nop"),
    ] {
        assert_eq!(show(word), "-", "{what}");
    }
}

#[test]
fn unpredictable_combinations_are_refused() {
    for (word, what) in [
        (0xf840_8442, "ldr x2, [x2], #8"),
        (0xf800_8c42, "str x2, [x2, #8]!"),
        (0xa940_0840 | 2, "ldp x2, x2, [x2]"),
        (0xa8c1_0440 & !0x1f | 2, "ldp x2, x1, [x2], #16"),
        (0xa881_0840, "stp x0, x2, [x2], #16"),
    ] {
        assert_eq!(show(word), "-", "{what}");
    }
    // The zero register and the stack pointer share their number, not their place.
    assert_eq!(show(0xf800_87ff), "st8 x31 [31+8] post"); // str xzr, [sp], #8
    assert_eq!(show(0xa900_0042 | 2 << 10), "st8 x2,x2 [2+0]"); // stp x2, x2, [x2]
}

#[test]
fn addresses_and_write_back_follow_the_index() {
    let resolve = |word, sp| {
        Transfer::decode(word).unwrap().resolve(
            0x1000,
            |r| [0, 0, 0x2000, u64::MAX][usize::from(r)],
            sp,
        )
    };
    let at = |address, write_back| Resolved {
        address,
        write_back,
    };
    assert_eq!(resolve(0xb840_4441, 0), at(0x2000, Some((2, 0x2004))));
    assert_eq!(
        resolve(0x29bf_1fe6, 0x800),
        at(0x7f8, Some((31, 0x7f8))),
        "stp w6, w7, [sp, #-8]!"
    );
    assert_eq!(resolve(0x98ff_ffe2, 0), at(0xffc, None), "literal");
    assert_eq!(resolve(0xf863_6841, 0), at(0x1fff, None), "lsl");
    assert_eq!(resolve(0xb863_5841, 0), at(0x4_0000_1ffc, None), "uxtw #2");
    assert_eq!(resolve(0x7823_c841, 0), at(0x1fff, None), "sxtw");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn no_word_breaks_the_decoder(words in proptest::collection::vec(any::<u32>(), 8)) {
        for word in words {
            fuzz_instruction(&word.to_le_bytes());
            // Half of all words are no loads or stores; these all are.
            fuzz_instruction(&(word & !(1 << 25) | 1 << 27).to_le_bytes());
        }
    }

    #[test]
    fn the_fields_of_a_pair_come_back(
        opc in 0u32..3, mode in 0u32..4, load: bool, imm in -64i64..64, rt in 0u32..32, rt2 in 0u32..32, rn in 0u32..32,
    ) {
        let word = opc << 30 | 0b101 << 27 | mode << 23 | u32::from(load) << 22
            | (imm.cast_unsigned() as u32 & 0x7f) << 15 | rt2 << 10 | rn << 5 | rt;
        let Some(t) = Transfer::decode(word) else {
            let refused = opc == 1 && (!load || mode == 0)
                || load && rt == rt2
                || mode & 1 != 0 && rn != 31 && (rt == rn || rt2 == rn);
            prop_assert!(refused, "{word:#x}");
            return Ok(());
        };
        let bytes = if opc == 2 { 8 } else { 4 };
        prop_assert_eq!((u32::from(t.access.reg), t.second.map(u32::from)), (rt, Some(rt2)));
        prop_assert_eq!((t.access.size.bytes(), t.write, t.access.signed), (bytes, !load, opc == 1));
        prop_assert_eq!(t.base, Base::Register(rn as u8));
        prop_assert_eq!(t.offset, Offset::Immediate(imm * i64::from(bytes)));
        prop_assert_eq!(t.index, [Index::Offset, Index::Post, Index::Offset, Index::Pre][mode as usize]);
    }

    #[test]
    fn the_fields_of_a_write_back_form_come_back(
        size in 0u32..4, opc in 0u32..4, pre: bool, imm in -256i64..256, rt in 0u32..32, rn in 0u32..32,
    ) {
        let word = size << 30 | 0b111 << 27 | opc << 22 | (imm.cast_unsigned() as u32 & 0x1ff) << 12
            | u32::from(pre) << 11 | 1 << 10 | rn << 5 | rt;
        let Some(t) = Transfer::decode(word) else {
            prop_assert!(opc >= 2 && size == 3 || opc == 3 && size == 2 || rt == rn && rn != 31, "{word:#x}");
            return Ok(());
        };
        prop_assert_eq!(t.access.size.bytes(), 1 << size);
        prop_assert_eq!((u32::from(t.access.reg), t.second, t.base), (rt, None, Base::Register(rn as u8)));
        prop_assert_eq!(t.offset, Offset::Immediate(imm));
        prop_assert_eq!((t.index == Index::Pre, t.write), (pre, opc == 0));
    }
}
