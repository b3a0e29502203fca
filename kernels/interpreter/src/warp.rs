//! Thirty-two threads in step: those that lag furthest behind run until they meet the others.

use std::collections::HashMap;

use crate::Memory;
use crate::parse::{Action, Entry, Instruction, Operation, Register, Shuffle, Space};

const LANES: usize = 32;
/// No kernel of ours runs longer on a test's input.
const MOST_INSTRUCTIONS: u64 = 1 << 32;

/// A warp between two barriers.
pub(crate) struct Warp {
    registers: Vec<[u64; LANES]>,
    arguments: HashMap<String, u64>,
    /// Each lane's next instruction; `None` once it has returned.
    next: [Option<usize>; LANES],
    at_barrier: bool,
    steps: u64,
}

/// Where the running lanes go after an instruction.
enum Next {
    Following,
    Jump(usize),
    /// Lanes part: those in the mask jump.
    Part(u32, usize),
    Return(u32),
    Barrier,
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

impl Warp {
    pub(crate) fn new(
        entry: &Entry,
        number: u32,
        threads: u32,
        block: [u32; 3],
        arguments: &HashMap<&str, u64>,
    ) -> Self {
        let mut registers: Vec<[u64; LANES]> = entry.registers.iter().map(|value| [*value; LANES]).collect();
        registers[0] = std::array::from_fn(|lane| u64::from(number) * LANES as u64 + lane as u64);
        registers[1] = [u64::from(threads); LANES];
        for (register, place) in registers[2..5].iter_mut().zip(block) {
            *register = [u64::from(place); LANES];
        }
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Self { registers, arguments, next: [Some(0); LANES], at_barrier: false, steps: 0 }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.next.iter().all(Option::is_none)
    }

    pub(crate) fn pass_barrier(&mut self) {
        self.at_barrier = false;
    }

    /// Runs to the next barrier or the end.
    pub(crate) fn run(&mut self, entry: &Entry, memory: &mut Memory, shared: &mut [u8]) -> Result<(), String> {
        while !self.at_barrier {
            let Some(first) = self.next.iter().flatten().min().copied() else { return Ok(()) };
            let mut mask = 0;
            let mut meet = usize::MAX;
            for (lane, next) in self.next.iter().enumerate() {
                match next {
                    Some(next) if *next == first => mask |= 1 << lane,
                    Some(next) => meet = meet.min(*next),
                    None => {}
                }
            }
            self.run_together(entry, mask, first, meet, memory, shared)?;
        }
        Ok(())
    }

    /// Runs the lanes of `mask` until they part, stop, or come to where others wait.
    fn run_together(
        &mut self,
        entry: &Entry,
        mask: u32,
        mut at: usize,
        meet: usize,
        memory: &mut Memory,
        shared: &mut [u8],
    ) -> Result<(), String> {
        loop {
            let instruction = entry.instructions.get(at).ok_or("ran past the end")?;
            self.steps += 1;
            if self.steps > MOST_INSTRUCTIONS {
                return Err("doesn't end".into());
            }
            let going = self.guarded(instruction, mask);
            match self.step(&instruction.operation, mask, going, memory, shared)? {
                Next::Following => at += 1,
                Next::Jump(to) => at = to,
                Next::Part(jumping, to) => {
                    for lane in lanes(mask) {
                        self.next[lane] = Some(if jumping >> lane & 1 == 1 { to } else { at + 1 });
                    }
                    return Ok(());
                }
                Next::Return(returning) => {
                    for lane in lanes(mask) {
                        self.next[lane] = if returning >> lane & 1 == 1 { None } else { Some(at + 1) };
                    }
                    return Ok(());
                }
                Next::Barrier => {
                    lanes(mask).for_each(|lane| self.next[lane] = Some(at + 1));
                    self.at_barrier = true;
                    return Ok(());
                }
            }
            if at >= meet {
                lanes(mask).for_each(|lane| self.next[lane] = Some(at));
                return Ok(());
            }
        }
    }

    /// The lanes of `mask` for which the instruction's guard holds.
    fn guarded(&self, instruction: &Instruction, mask: u32) -> u32 {
        let Some((register, value)) = instruction.guard else { return mask };
        let holds = |lane: &usize| (self.registers[register][*lane] == 1) == value;
        lanes(mask).filter(holds).fold(0, |held, lane| held | 1 << lane)
    }

    /// Lanes that haven't returned.
    fn living(&self) -> u32 {
        (0..LANES).filter(|lane| self.next[*lane].is_some()).fold(0, |all, lane| all | 1 << lane)
    }

    fn step(
        &mut self,
        operation: &Operation,
        mask: u32,
        going: u32,
        memory: &mut Memory,
        shared: &mut [u8],
    ) -> Result<Next, String> {
        match operation {
            Operation::Compute { action, to, from } => self.compute(*action, *to, *from, going),
            Operation::Parameter { to, name } => {
                let value = *self.arguments.get(name).ok_or_else(|| format!("no parameter {name}"))?;
                lanes(going).for_each(|lane| self.registers[*to][lane] = value);
            }
            Operation::Load { space, bytes, to, address, offset } => {
                for lane in lanes(going) {
                    let start = self.registers[*address][lane].wrapping_add(*offset);
                    aligned(start, bytes * to.len())?;
                    for (place, to) in to.iter().enumerate() {
                        let from = start + (place * bytes) as u64;
                        let found = match space {
                            Space::Global => memory.load(from, *bytes)?,
                            Space::Shared => {
                                shared.get(from as usize..from as usize + bytes).ok_or("outside shared")?
                            }
                        };
                        let mut value = [0; 8];
                        value[..*bytes].copy_from_slice(found);
                        self.registers[*to][lane] = u64::from_le_bytes(value);
                    }
                }
            }
            Operation::Store { space, bytes, from, address, offset } => {
                for lane in lanes(going) {
                    let start = self.registers[*address][lane].wrapping_add(*offset);
                    aligned(start, bytes * from.len())?;
                    for (place, from) in from.iter().enumerate() {
                        let to = start + (place * bytes) as u64;
                        let target = match space {
                            Space::Global => memory.store(to, *bytes)?,
                            Space::Shared => {
                                shared.get_mut(to as usize..to as usize + bytes).ok_or("outside shared")?
                            }
                        };
                        target.copy_from_slice(&self.registers[*from][lane].to_le_bytes()[..*bytes]);
                    }
                }
            }
            Operation::Shuffle { kind, to, from, lane: by, clamp, members } => {
                let first = going.trailing_zeros() as usize % LANES;
                if going != self.registers[*members][first] as u32 || self.registers[*clamp][first] != 31 {
                    return Err("a shuffle that not all its lanes reach".into());
                }
                let given = self.registers[*from];
                let by = self.registers[*by];
                for lane in lanes(going) {
                    let source = match kind {
                        Shuffle::Down => Some(lane + by[lane] as usize).filter(|lane| *lane < LANES).unwrap_or(lane),
                        Shuffle::Index => by[lane] as usize % LANES,
                    };
                    self.registers[*to][lane] = given[source];
                }
            }
            Operation::Branch { to, .. } => {
                return Ok(match going {
                    0 => Next::Following,
                    all if all == mask => Next::Jump(*to),
                    some => Next::Part(some, *to),
                });
            }
            Operation::Return => return Ok(if going == 0 { Next::Following } else { Next::Return(going) }),
            Operation::Barrier => {
                if going != self.living() {
                    return Err("a barrier that not all threads reach".into());
                }
                return Ok(Next::Barrier);
            }
        }
        Ok(Next::Following)
    }

    fn compute(&mut self, action: Action, to: Register, from: [Register; 4], going: u32) {
        let [a, b, c, e] = from.map(|register| self.registers[register]);
        let target = &mut self.registers[to];
        let mut each = |compute: &dyn Fn(usize) -> u64| lanes(going).for_each(|lane| target[lane] = compute(lane));
        match action {
            Action::One(f) => each(&|lane| f(a[lane])),
            Action::Two(f) => each(&|lane| f(a[lane], b[lane])),
            Action::Three(f) => each(&|lane| f(a[lane], b[lane], c[lane])),
            Action::Four(f) => each(&|lane| f(a[lane], b[lane], c[lane], e[lane])),
        }
    }
}

fn aligned(address: u64, bytes: usize) -> Result<(), String> {
    if address.is_multiple_of(bytes as u64) { Ok(()) } else { Err(format!("{address:#x} is not aligned to {bytes}")) }
}
