//! Software generated interrupts: `GICD_SGIR` on GICv2, trapped writes to `ICC_SGI1R_EL1` and its siblings on GICv3.

use super::{VgicDomain, hw::Hardware, queue::bits, vcpu::VgicVcpu};
use crate::gic::regs::{GICD_SGIR, ICC_SGI1R};

/// All of an `ICC_SGI1R_EL1` value but the interrupt number.
const TO_WHOM: u64 = ICC_SGI1R::TARGETS.mask
    | ICC_SGI1R::AFF1.mask << 16
    | ICC_SGI1R::AFF2.mask << 32
    | ICC_SGI1R::ALL_BUT_SELF.mask << 40
    | ICC_SGI1R::RANGE.mask << 44
    | ICC_SGI1R::AFF3.mask << 48;

/// The `ICC_SGI1R_EL1` value, without interrupt number, that reaches only vCPU `index`.
pub(super) fn to_self(index: usize) -> u64 {
    let [aff0, aff1, aff2, aff3] = super::affinity_of(index).to_le_bytes();
    ICC_SGI1R::TARGETS.val(1 << (aff0 & 15)).value
        | ICC_SGI1R::AFF1.val(u64::from(aff1)).value
        | ICC_SGI1R::AFF2.val(u64::from(aff2)).value
        | ICC_SGI1R::AFF3.val(u64::from(aff3)).value
}

/// The vCPU that bit 0 of the target list stands for.
#[inline]
fn first_of_cluster(value: u64) -> usize {
    let cluster = ICC_SGI1R::AFF1.read(value)
        | ICC_SGI1R::AFF2.read(value) << 8
        | ICC_SGI1R::AFF3.read(value) << 16;
    cluster as usize * 16
}

/// The vCPU that an `ICC_SGI1R_EL1` value reaches, where it names one: nearly always.
#[inline]
fn only_target(value: u64) -> Option<usize> {
    let list = ICC_SGI1R::TARGETS.read(value);
    let listed = !ICC_SGI1R::ALL_BUT_SELF.is_set(value) && ICC_SGI1R::RANGE.read(value) == 0;
    (listed && list.is_power_of_two())
        .then(|| first_of_cluster(value) + list.trailing_zeros() as usize)
}

impl VgicDomain {
    /// vCPU `sender`, loaded on this CPU, wrote `value` to `ICC_SGI1R_EL1`. All of a guest's interrupts are group 1, so a
    /// write to `ICC_SGI0R_EL1` or `ICC_ASGI1R_EL1` reaches nothing and needs no call.
    #[inline]
    pub fn sgi1r<H: Hardware>(
        &self,
        hw: &H,
        sender: usize,
        value: u64,
        mut notify: impl FnMut(usize),
    ) {
        let sgi = ICC_SGI1R::INTID.read(value) as u32;
        if let Some(own) = self.vcpus.get(sender)
            && value & TO_WHOM == own.to_self()
        {
            own.raise_here(hw, sgi);
            return;
        }
        let Some(index) = only_target(value) else {
            return self.sgi_several(hw, sender, value, notify);
        };
        if let Some(v) = self.vcpus.get(index)
            && v.raise(sgi)
        {
            notify(index);
        }
    }

    #[inline(never)]
    fn sgi_several<H: Hardware>(
        &self,
        hw: &H,
        sender: usize,
        value: u64,
        mut notify: impl FnMut(usize),
    ) {
        let sgi = ICC_SGI1R::INTID.read(value) as u32;
        if ICC_SGI1R::ALL_BUT_SELF.is_set(value) {
            for (index, v) in self.vcpus.iter().enumerate() {
                if index != sender && v.raise(sgi) {
                    notify(index);
                }
            }
            return;
        }
        // A vCPU's affinity 0 is below 16: other ranges are empty.
        if ICC_SGI1R::RANGE.read(value) != 0 {
            return;
        }
        for aff0 in bits(ICC_SGI1R::TARGETS.read(value) as u32) {
            let index = first_of_cluster(value) + aff0 as usize;
            let Some(v) = self.vcpus.get(index) else {
                return;
            };
            self.send(hw, sender, index, v, sgi, &mut notify);
        }
    }

    fn send<H: Hardware>(
        &self,
        hw: &H,
        sender: usize,
        index: usize,
        v: &VgicVcpu,
        sgi: u32,
        notify: &mut impl FnMut(usize),
    ) {
        if index == sender {
            v.raise_here(hw, sgi);
        } else if v.raise(sgi) {
            notify(index);
        }
    }

    /// vCPU `sender` wrote `value` to `GICD_SGIR`.
    pub(super) fn sgir(&self, sender: usize, value: u32, mut notify: impl FnMut(usize)) {
        let sgi = GICD_SGIR::INTID.read(value);
        let own = 1u32 << (sender & 7);
        let targets = match GICD_SGIR::FILTER.read(value) {
            0 => GICD_SGIR::TARGETS.read(value),
            1 => !own,
            2 => own,
            _ => 0,
        };
        for (index, v) in self.vcpus.iter().enumerate().take(8) {
            if targets & 1 << index != 0 && v.raise_from(sgi, sender as u8 & 7) {
                notify(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_names_one_vcpu_names_it_as_its_affinity_does() {
        for index in [0, 1, 15, 16, 17, 4095] {
            assert_eq!(only_target(to_self(index)), Some(index));
        }
        let one = to_self(3);
        assert_eq!(only_target(one | to_self(4)), None, "two");
        assert_eq!(only_target(one | ICC_SGI1R::ALL_BUT_SELF::SET.value), None);
        assert_eq!(only_target(one | ICC_SGI1R::RANGE.val(1).value), None);
        assert_eq!(only_target(0), None);
    }
}
