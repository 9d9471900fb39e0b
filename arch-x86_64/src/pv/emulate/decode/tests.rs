use alloc::vec::Vec;

use iced_x86::{Code as Iced, Decoder, DecoderOptions, Instruction, OpKind, Register};

use super::*;

/// What the library's decoder says, in our words.
fn expected(instruction: &Instruction) -> Option<Operation> {
    let number = |register: Register| register.number() as u8;
    if instruction.has_lock_prefix() {
        return None;
    }
    let (first, second) = (instruction.op0_register(), instruction.op1_register());
    let immediate = || Port::Is(instruction.immediate8());
    let strings = |size, input| {
        let kinds = [instruction.op0_kind(), instruction.op1_kind()];
        Operation::Strings(StringAccess {
            size,
            input,
            repeats: instruction.has_rep_prefix() || instruction.has_repne_prefix(),
            short_address: kinds
                .iter()
                .any(|kind| matches!(kind, OpKind::MemoryESEDI | OpKind::MemorySegESI)),
            segment: match instruction.segment_prefix() {
                Register::FS => Segment::Fs,
                Register::GS => Segment::Gs,
                _ => Segment::Flat,
            },
        })
    };
    let port_in = |port, size| Operation::In { port, size };
    let port_out = |port, size| Operation::Out { port, size };
    Some(match instruction.code() {
        Iced::Rdmsr => Operation::ReadMsr,
        Iced::Wrmsr => Operation::WriteMsr,
        Iced::Cpuid => Operation::Cpuid,
        Iced::Rdtsc => Operation::ReadTsc,
        Iced::Rdtscp => Operation::ReadTscAux,
        Iced::Xsetbv => Operation::SetXcr,
        Iced::Clts => Operation::ClearTaskSwitched,
        Iced::Wbinvd | Iced::Wbnoinvd => Operation::FlushCaches,
        Iced::Cli | Iced::Sti => Operation::InterruptFlag,
        Iced::Invlpg_m => Operation::FlushPage,
        Iced::Mov_r64_cr => Operation::ReadControl {
            control: number(second),
            general: number(first),
        },
        Iced::Mov_cr_r64 => Operation::WriteControl {
            control: number(first),
            general: number(second),
        },
        Iced::Mov_r64_dr => Operation::ReadDebug {
            debug: number(second),
            general: number(first),
        },
        Iced::Mov_dr_r64 => Operation::WriteDebug {
            debug: number(first),
            general: number(second),
        },
        Iced::In_AL_imm8 => port_in(immediate(), 1),
        Iced::In_AX_imm8 => port_in(immediate(), 2),
        Iced::In_EAX_imm8 => port_in(immediate(), 4),
        Iced::In_AL_DX => port_in(Port::Dx, 1),
        Iced::In_AX_DX => port_in(Port::Dx, 2),
        Iced::In_EAX_DX => port_in(Port::Dx, 4),
        Iced::Out_imm8_AL => port_out(immediate(), 1),
        Iced::Out_imm8_AX => port_out(immediate(), 2),
        Iced::Out_imm8_EAX => port_out(immediate(), 4),
        Iced::Out_DX_AL => port_out(Port::Dx, 1),
        Iced::Out_DX_AX => port_out(Port::Dx, 2),
        Iced::Out_DX_EAX => port_out(Port::Dx, 4),
        code if VIRTUAL_MACHINES.contains(&code) => Operation::VirtualMachines,
        Iced::Insb_m8_DX => strings(1, true),
        Iced::Insw_m16_DX => strings(2, true),
        Iced::Insd_m32_DX => strings(4, true),
        Iced::Outsb_DX_m8 => strings(1, false),
        Iced::Outsw_DX_m16 => strings(2, false),
        Iced::Outsd_DX_m32 => strings(4, false),
        _ => return None,
    })
}

const VIRTUAL_MACHINES: [Iced; 34] = [
    Iced::Vmcall,
    Iced::Vmlaunch,
    Iced::Vmresume,
    Iced::Vmxoff,
    Iced::Vmxon_m64,
    Iced::Vmclear_m64,
    Iced::Vmptrld_m64,
    Iced::Vmptrst_m64,
    Iced::Vmread_rm32_r32,
    Iced::Vmread_rm64_r64,
    Iced::Vmwrite_r32_rm32,
    Iced::Vmwrite_r64_rm64,
    Iced::Invept_r32_m128,
    Iced::Invept_r64_m128,
    Iced::Invvpid_r32_m128,
    Iced::Invvpid_r64_m128,
    Iced::Vmrunw,
    Iced::Vmrund,
    Iced::Vmrunq,
    Iced::Vmmcall,
    Iced::Vmgexit,
    Iced::Vmgexit_F2,
    Iced::Vmloadw,
    Iced::Vmloadd,
    Iced::Vmloadq,
    Iced::Vmsavew,
    Iced::Vmsaved,
    Iced::Vmsaveq,
    Iced::Stgi,
    Iced::Clgi,
    Iced::Skinit,
    Iced::Invlpgaw,
    Iced::Invlpgad,
    Iced::Invlpgaq,
];

const PREFIXES: [u8; 13] = [
    0x66, 0x67, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0xf0, 0x48, 0x45,
];

fn opcodes() -> Vec<Vec<u8>> {
    let one = (0u8..=0xff)
        .filter(|byte| !PREFIXES.contains(byte) && byte & 0xf0 != 0x40 && *byte != 0x0f);
    let two = (0u8..=0xff).map(|byte| [0x0f, byte].to_vec());
    let three = (0x80u8..=0x82).map(|byte| [0x0f, 0x38, byte].to_vec());
    one.map(|byte| [byte].to_vec())
        .chain(two)
        .chain(three)
        .collect()
}

fn compare(code: Code, bytes: &[u8]) {
    let bits = match code {
        Code::Long => 64,
        Code::Short => 32,
    };
    let instruction = Decoder::with_ip(bits, bytes, 0, DecoderOptions::NONE).decode();
    let found = decode(bytes, code);
    if instruction.is_invalid() {
        // The CPU raises another exception: nobody asks.
        return;
    }
    let mut expected = expected(&instruction);
    if code == Code::Short && matches!(expected, Some(Operation::Strings(_))) {
        expected = None;
    }
    assert_eq!(
        found.map(|(operation, _)| operation),
        expected,
        "{bits} bits: {bytes:02x?} is {:?}",
        instruction.code()
    );
    if let Some((operation, length)) = found
        && !matches!(operation, Operation::FlushPage | Operation::VirtualMachines)
    {
        assert_eq!(usize::from(length), instruction.len(), "{bytes:02x?}");
    }
}

#[test]
fn every_opcode_means_what_it_means_to_another_decoder() {
    for code in [Code::Long, Code::Short] {
        for opcode in opcodes() {
            for operands in [
                0xc0, 0xc1, 0xc2, 0xc4, 0xd1, 0xd0, 0xd8, 0xd9, 0xdd, 0xdf, 0xe0, 0xe7, 0xf0, 0xfa,
                0xf9, 0x30, 0x38, 0x3d, 0x05, 0x80,
            ] {
                let mut plain = opcode.clone();
                plain.extend([operands, 1, 2, 3, 4, 5, 6, 7]);
                compare(code, &plain);
                for first in PREFIXES {
                    let mut one = [first].to_vec();
                    one.extend(&plain);
                    compare(code, &one);
                    for second in PREFIXES {
                        let mut two = [second].to_vec();
                        two.extend(&one);
                        two.truncate(LONGEST);
                        compare(code, &two);
                    }
                }
            }
        }
    }
}

#[test]
fn every_register_of_a_move_is_found() {
    for opcode in 0x20..=0x23 {
        for operands in 0..=0xff {
            for rex in [None, Some(0x41), Some(0x44), Some(0x4d)] {
                let mut bytes: Vec<u8> = rex.into_iter().collect();
                bytes.extend([0x0f, opcode, operands]);
                bytes.resize(8, 0);
                compare(Code::Long, &bytes);
            }
        }
    }
}

#[test]
fn what_is_cut_off_or_too_long_is_nothing() {
    assert_eq!(decode(&[], Code::Long), None);
    assert_eq!(decode(&[0x0f], Code::Long), None);
    assert_eq!(decode(&[0x0f, 0x20], Code::Long), None);
    assert_eq!(decode(&[0xe4], Code::Long), None);
    assert_eq!(decode(&[0x66; LONGEST], Code::Long), None);
    let mut long = [0x66; LONGEST + 1];
    long[LONGEST - 1] = 0x0f;
    long[LONGEST] = 0x32;
    assert_eq!(decode(&long, Code::Long), None);
    assert_eq!(
        decode(&long[1..], Code::Long),
        Some((Operation::ReadMsr, 15))
    );
}

#[test]
fn the_forced_form_is_the_prefix_and_the_instruction() {
    let (prefix, instruction) = FORCED_CPUID.split_at(5);
    assert_eq!(prefix, b"\x0f\x0bxen");
    assert_eq!(decode(instruction, Code::Long), Some((Operation::Cpuid, 2)));
}

#[test]
fn a_move_of_the_kernel_alone_is_nothing_in_32_bit_code() {
    for opcode in 0x20..=0x23 {
        assert_eq!(decode(&[0x0f, opcode, 0xc0], Code::Short), None);
    }
}

#[test]
fn a_descriptor_says_which_code_it_is_and_where() {
    const FLAT_64: u64 = 0x00af_fb00_0000_ffff;
    const FLAT_32: u64 = 0x00cf_fb00_0000_ffff;
    const FLAT_16: u64 = 0x008f_fb00_0000_ffff;
    const BASE: u64 = 0x12 << 56 | 0x34_5678 << 16;
    let rip = 0xffff_8800_0000_1000;
    assert_eq!(place(FLAT_64, rip), Some((rip, Code::Long)));
    assert_eq!(place(FLAT_64 | BASE, rip), Some((rip, Code::Long)));
    assert_eq!(place(FLAT_32, 0x1000), Some((0x1000, Code::Short)));
    assert_eq!(
        place(FLAT_32 | BASE, 0x1000),
        Some((0x1234_6678, Code::Short))
    );
    assert_eq!(
        place(FLAT_32 | BASE, 0xffff_ffff),
        Some((0x1234_5677, Code::Short))
    );
    assert_eq!(place(FLAT_16, 0x1000), None);
}
