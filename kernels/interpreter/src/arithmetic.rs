//! What each arithmetic instruction does to 64-bit registers; narrower values sit in the low bits, the others zero.

use std::cmp::Ordering;

use crate::parse::Action;

fn f(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn of(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn d(x: u64) -> f64 {
    f64::from_bits(x)
}

fn low(x: u64) -> u32 {
    x as u32
}

fn signed(x: u64) -> i32 {
    x as i32
}

fn wide(x: u64) -> i64 {
    x as i64
}

fn flag(x: bool) -> u64 {
    u64::from(x)
}

/// What an opcode does; `None` for one that isn't arithmetic of ours.
pub(crate) fn action(opcode: &str) -> Option<Action> {
    use Action::{Four, One, Three, Two};
    Some(match opcode {
        "mov.u32" | "mov.b32" | "mov.f32" => One(|a| u64::from(low(a))),
        "mov.u64" | "mov.b64" | "mov.f64" | "mov.u16" | "mov.b16" | "cvta.to.global.u64" => One(|a| a),
        "mov.pred" => One(|a| a & 1),
        "cvt.u64.u32" | "cvt.u32.u64" => One(|a| u64::from(low(a))),
        "cvt.u32.u16" => One(|a| a & 0xffff),
        "cvt.u16.u32" | "cvt.u16.u64" => One(|a| a & 0xffff),
        "cvt.rn.f32.u32" => One(|a| of(low(a) as f32)),
        "cvt.f64.f32" => One(|a| f64::from(f(a)).to_bits()),
        "cvt.rn.f32.f64" => One(|a| of(d(a) as f32)),
        "cvt.rn.f64.s64" => One(|a| (wide(a) as f64).to_bits()),
        "cvt.rn.f64.s32" => One(|a| f64::from(signed(a)).to_bits()),
        "cvt.rn.f64.u32" => One(|a| f64::from(low(a)).to_bits()),
        // Only where the value fits: beyond, the two saturate differently.
        "cvt.rzi.s64.f64" => One(|a| d(a) as i64 as u64),
        "cvt.rni.s64.f64" => One(|a| d(a).round_ties_even() as i64 as u64),
        "cvt.rzi.s32.f64" => One(|a| u64::from(d(a) as i32 as u32)),
        "sqrt.rn.f32" => One(|a| of(f(a).sqrt())),
        "sqrt.rn.f64" => One(|a| d(a).sqrt().to_bits()),
        "rcp.rn.f64" => One(|a| (1.0 / d(a)).to_bits()),
        "not.b32" => One(|a| u64::from(!low(a))),
        "not.pred" => One(|a| a ^ 1),
        "neg.s32" => One(|a| u64::from(low(a).wrapping_neg())),
        "popc.b32" => One(|a| u64::from(low(a).count_ones())),

        "add.rn.f32" => Two(|a, b| of(f(a) + f(b))),
        "sub.rn.f32" => Two(|a, b| of(f(a) - f(b))),
        "mul.rn.f32" => Two(|a, b| of(f(a) * f(b))),
        "div.rn.f32" => Two(|a, b| of(f(a) / f(b))),
        "add.rn.f64" => Two(|a, b| (d(a) + d(b)).to_bits()),
        "sub.rn.f64" => Two(|a, b| (d(a) - d(b)).to_bits()),
        "mul.rn.f64" => Two(|a, b| (d(a) * d(b)).to_bits()),
        "div.rn.f64" => Two(|a, b| (d(a) / d(b)).to_bits()),
        "add.s32" | "add.u32" => Two(|a, b| u64::from(low(a).wrapping_add(low(b)))),
        "sub.s32" | "sub.u32" => Two(|a, b| u64::from(low(a).wrapping_sub(low(b)))),
        "add.s64" | "add.u64" => Two(u64::wrapping_add),
        "sub.s64" | "sub.u64" => Two(u64::wrapping_sub),
        "mul.lo.s32" | "mul.lo.u32" => Two(|a, b| u64::from(low(a).wrapping_mul(low(b)))),
        "mul.lo.s64" | "mul.lo.u64" => Two(u64::wrapping_mul),
        "mul.wide.u32" => Two(|a, b| u64::from(low(a)) * u64::from(low(b))),
        "mul.wide.u16" => Two(|a, b| (a & 0xffff) * (b & 0xffff)),
        "mul.wide.s32" => Two(|a, b| (i64::from(signed(a)) * i64::from(signed(b))) as u64),
        "div.u32" => Two(|a, b| u64::from(low(a).checked_div(low(b)).unwrap_or(u32::MAX))),
        "rem.u32" => Two(|a, b| u64::from(low(a).checked_rem(low(b)).unwrap_or(low(a)))),
        "div.u64" => Two(|a, b| a.checked_div(b).unwrap_or(u64::MAX)),
        "rem.u64" => Two(|a, b| a.checked_rem(b).unwrap_or(a)),
        "min.u32" => Two(|a, b| u64::from(low(a).min(low(b)))),
        "max.u32" => Two(|a, b| u64::from(low(a).max(low(b)))),
        "and.b32" | "and.b64" | "and.b16" | "and.pred" => Two(|a, b| a & b),
        "or.b32" | "or.b64" | "or.b16" | "or.pred" => Two(|a, b| a | b),
        "xor.b32" | "xor.b64" | "xor.pred" => Two(|a, b| a ^ b),
        "shl.b32" => Two(|a, b| u64::from(low(a).checked_shl(low(b)).unwrap_or(0))),
        "shr.u32" => Two(|a, b| u64::from(low(a).checked_shr(low(b)).unwrap_or(0))),
        "shr.s32" => Two(|a, b| u64::from((signed(a) >> low(b).min(31)) as u32)),
        "shl.b64" => Two(|a, b| a.checked_shl(low(b)).unwrap_or(0)),
        "shr.u64" => Two(|a, b| a.checked_shr(low(b)).unwrap_or(0)),
        "shr.s64" => Two(|a, b| (wide(a) >> low(b).min(63)) as u64),

        "setp.eq.b16" | "setp.eq.s16" => Two(|a, b| flag(a as u16 == b as u16)),
        "setp.ne.b16" | "setp.ne.s16" => Two(|a, b| flag(a as u16 != b as u16)),
        "setp.eq.s32" | "setp.eq.u32" => Two(|a, b| flag(low(a) == low(b))),
        "setp.ne.s32" | "setp.ne.u32" => Two(|a, b| flag(low(a) != low(b))),
        "setp.lt.u32" => Two(|a, b| flag(low(a) < low(b))),
        "setp.le.u32" => Two(|a, b| flag(low(a) <= low(b))),
        "setp.gt.u32" => Two(|a, b| flag(low(a) > low(b))),
        "setp.ge.u32" => Two(|a, b| flag(low(a) >= low(b))),
        "setp.lt.s32" => Two(|a, b| flag(signed(a) < signed(b))),
        "setp.le.s32" => Two(|a, b| flag(signed(a) <= signed(b))),
        "setp.gt.s32" => Two(|a, b| flag(signed(a) > signed(b))),
        "setp.ge.s32" => Two(|a, b| flag(signed(a) >= signed(b))),
        "setp.eq.s64" | "setp.eq.u64" => Two(|a, b| flag(a == b)),
        "setp.ne.s64" | "setp.ne.u64" => Two(|a, b| flag(a != b)),
        "setp.lt.u64" => Two(|a, b| flag(a < b)),
        "setp.gt.u64" => Two(|a, b| flag(a > b)),
        "setp.ge.u64" => Two(|a, b| flag(a >= b)),
        "setp.lt.f32" => Two(|a, b| flag(f(a) < f(b))),
        "setp.gt.f32" => Two(|a, b| flag(f(a) > f(b))),
        "setp.lt.f64" => Two(|a, b| flag(d(a) < d(b))),
        "setp.gt.f64" => Two(|a, b| flag(d(a) > d(b))),
        // The unordered ones are true for NaN.
        "setp.ltu.f64" => Two(|a, b| flag(d(a).partial_cmp(&d(b)).is_none_or(Ordering::is_lt))),
        "setp.leu.f64" => Two(|a, b| flag(d(a).partial_cmp(&d(b)).is_none_or(Ordering::is_le))),
        "setp.gtu.f64" => Two(|a, b| flag(d(a).partial_cmp(&d(b)).is_none_or(Ordering::is_gt))),
        "setp.geu.f64" => Two(|a, b| flag(d(a).partial_cmp(&d(b)).is_none_or(Ordering::is_ge))),

        // Fused: one instruction, or the C library's, which is right on the machines that run this.
        "fma.rn.f32" => Three(|a, b, c| of(f(a).mul_add(f(b), f(c)))),
        "mad.lo.s32" | "mad.lo.u32" => Three(|a, b, c| u64::from(low(a).wrapping_mul(low(b)).wrapping_add(low(c)))),
        "mad.lo.s64" => Three(|a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        "selp.f32" | "selp.b32" | "selp.u32" | "selp.s32" => {
            Three(|a, b, choose| u64::from(low(if choose == 1 { a } else { b })))
        }
        "selp.u16" | "selp.b16" | "selp.s16" => Three(|a, b, choose| (if choose == 1 { a } else { b }) & 0xffff),
        "selp.b64" | "selp.u64" | "selp.f64" | "selp.s64" => Three(|a, b, choose| if choose == 1 { a } else { b }),
        // Puts the low `len` bits of a into b, from bit `at` on.
        "bfi.b32" => Four(|a, b, at, len| {
            let mask = (1u64 << len.min(32)) - 1;
            u64::from(low(b & !(mask << at.min(32)) | (a & mask) << at.min(32)))
        }),
        _ => return None,
    })
}
