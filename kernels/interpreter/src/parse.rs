//! Reads PTX text.

use std::collections::HashMap;

use crate::arithmetic;

/// A register's place, a constant's behind them.
pub(crate) type Register = usize;

/// What an arithmetic instruction computes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    One(fn(u64) -> u64),
    Two(fn(u64, u64) -> u64),
    Three(fn(u64, u64, u64) -> u64),
    Four(fn(u64, u64, u64, u64) -> u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    Global,
    Shared,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Down,
    Index,
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Compute { action: Action, to: Register, from: [Register; 4] },
    Parameter { to: Register, name: String },
    Load { space: Space, bytes: usize, to: Vec<Register>, address: Register, offset: u64 },
    Store { space: Space, bytes: usize, from: Vec<Register>, address: Register, offset: u64 },
    Shuffle { kind: Shuffle, to: Register, from: Register, lane: Register, clamp: Register, members: Register },
    Branch { label: String, to: usize },
    Barrier,
    Return,
}

#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// Runs only where this predicate has this value.
    pub(crate) guard: Option<(Register, bool)>,
    pub(crate) operation: Operation,
}

/// Special registers, in the order of their places.
pub(crate) const SPECIAL: [&str; 5] = ["%tid.x", "%ntid.x", "%ctaid.x", "%ctaid.y", "%ctaid.z"];

/// A kernel.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Name and bytes.
    pub(crate) parameters: Vec<(String, usize)>,
    pub(crate) instructions: Vec<Instruction>,
    /// What all registers hold at the start: special registers first, constants among the others.
    pub(crate) registers: Vec<u64>,
    pub(crate) shared_bytes: usize,
}

#[derive(Default)]
struct Builder {
    names: HashMap<String, Register>,
    registers: Vec<u64>,
    shared: HashMap<String, usize>,
    shared_bytes: usize,
    labels: HashMap<String, usize>,
    instructions: Vec<Instruction>,
}

/// All kernels of a module.
pub(crate) fn module(ptx: &str) -> Result<HashMap<String, Entry>, String> {
    let mut entries = HashMap::new();
    let mut lines = ptx.lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix(".visible .entry ") {
            let name = rest.trim_end_matches('(').to_owned();
            let entry = entry(&mut lines).map_err(|problem| format!("{name}: {problem}"))?;
            entries.insert(name, entry);
        } else if !(line.is_empty() || [".version", ".target", ".address_size"].iter().any(|w| line.starts_with(w))) {
            return Err(format!("unknown outside of a kernel: {line}"));
        }
    }
    Ok(entries)
}

fn entry<'a>(lines: &mut impl Iterator<Item = &'a str>) -> Result<Entry, String> {
    let mut parameters = Vec::new();
    for line in lines.by_ref().take_while(|line| *line != "{") {
        if let Some(rest) = line.strip_prefix(".param .") {
            let (kind, name) = rest.trim_end_matches(',').split_once(' ').ok_or("an odd parameter")?;
            parameters.push((name.to_owned(), bytes_of(kind)?));
        } else if !(line.is_empty() || line == ")" || line.starts_with(".maxntid") || line.starts_with(".minnctapersm"))
        {
            return Err(format!("unknown before a body: {line}"));
        }
    }
    let mut builder = Builder::default();
    for special in SPECIAL {
        builder.register(special);
    }
    for line in lines.by_ref().take_while(|line| *line != "}") {
        builder.line(line)?;
    }
    let Builder { mut instructions, registers, labels, shared_bytes, .. } = builder;
    for instruction in &mut instructions {
        if let Operation::Branch { label, to } = &mut instruction.operation {
            *to = *labels.get(label).ok_or_else(|| format!("no label {label}"))?;
        }
    }
    Ok(Entry { parameters, instructions, registers, shared_bytes })
}

fn bytes_of(kind: &str) -> Result<usize, String> {
    match kind {
        "u8" | "b8" => Ok(1),
        "u16" | "b16" => Ok(2),
        "u32" | "s32" | "b32" | "f32" => Ok(4),
        "u64" | "s64" | "b64" | "f64" => Ok(8),
        other => Err(format!("unknown type {other}")),
    }
}

impl Builder {
    fn register(&mut self, name: &str) -> Register {
        if let Some(place) = self.names.get(name) {
            return *place;
        }
        self.registers.push(0);
        self.names.insert(name.to_owned(), self.registers.len() - 1);
        self.registers.len() - 1
    }

    fn constant(&mut self, value: u64) -> Register {
        let place = self.register(&format!("constant {value:x}"));
        self.registers[place] = value;
        place
    }

    /// A register, a constant, or the address of something in shared memory.
    fn operand(&mut self, text: &str) -> Result<Register, String> {
        if text.starts_with('%') {
            let known = SPECIAL.contains(&text) || !text.contains('.');
            return if known { Ok(self.register(text)) } else { Err(format!("unknown register {text}")) };
        }
        if let Some(address) = self.shared.get(text) {
            let address = *address as u64;
            return Ok(self.constant(address));
        }
        let hex = |digits| u64::from_str_radix(digits, 16).ok();
        let value = match text.get(..2) {
            Some("0f" | "0d") => hex(&text[2..]),
            _ => text.parse::<i64>().ok().map(|value| value as u64),
        };
        Ok(self.constant(value.ok_or_else(|| format!("unknown operand {text}"))?))
    }

    /// `[register+offset]` or `[name+offset]`.
    fn address(&mut self, text: &str) -> Result<(Register, u64), String> {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).ok_or("an odd address")?;
        let (base, offset) = inner.split_once('+').unwrap_or((inner, "0"));
        let offset: i64 = offset.parse().map_err(|_| format!("odd offset {offset}"))?;
        Ok((self.operand(base)?, offset as u64))
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with(".reg") || line.starts_with(".pragma \"nounroll\"") {
            return Ok(());
        }
        if let Some(shared) = line.strip_prefix(".shared .align ") {
            // `16 .b8 name[bytes];`
            let (name, bytes) =
                shared.split_once(".b8 ").and_then(|(_, rest)| rest.split_once('[')).ok_or("odd shared")?;
            let bytes: usize = bytes.trim_end_matches("];").parse().map_err(|_| "odd shared size")?;
            self.shared.insert(name.to_owned(), self.shared_bytes);
            self.shared_bytes += bytes.next_multiple_of(16);
            return Ok(());
        }
        if let Some(label) = line.strip_suffix(':') {
            self.labels.insert(label.to_owned(), self.instructions.len());
            return Ok(());
        }
        let statement = line.strip_suffix(';').ok_or_else(|| format!("unknown: {line}"))?;
        let (guard, statement) = match statement.strip_prefix('@') {
            Some(rest) => {
                let (guard, rest) = rest.split_once(' ').ok_or("an odd guard")?;
                let (name, value) = guard.strip_prefix('!').map_or((guard, true), |name| (name, false));
                (Some((self.register(name), value)), rest)
            }
            None => (None, statement),
        };
        let (opcode, operands) = statement.trim().split_once([' ', '\t']).unwrap_or((statement.trim(), ""));
        let operation = self.operation(opcode, &split(operands)).map_err(|problem| format!("{line}: {problem}"))?;
        self.instructions.push(Instruction { guard, operation });
        Ok(())
    }

    fn operation(&mut self, opcode: &str, operands: &[&str]) -> Result<Operation, String> {
        match (opcode, operands) {
            ("ret", []) => return Ok(Operation::Return),
            ("bar.sync", ["0"]) => return Ok(Operation::Barrier),
            ("bra" | "bra.uni", [label]) => return Ok(Operation::Branch { label: (*label).to_owned(), to: 0 }),
            _ => {}
        }
        if let Some(kind) = opcode.strip_prefix("ld.param.") {
            bytes_of(kind)?;
            let [to, name] = operands else { return Err("two operands expected".into()) };
            let name = name.trim_matches(['[', ']']).to_owned();
            return Ok(Operation::Parameter { to: self.operand(to)?, name });
        }
        if let Some(rest) = opcode.strip_prefix("ld.") {
            let (space, bytes, _) = access(rest)?;
            let [to, address] = operands else { return Err("two operands expected".into()) };
            let (address, offset) = self.address(address)?;
            return Ok(Operation::Load { space, bytes, to: self.several(to)?, address, offset });
        }
        if let Some(rest) = opcode.strip_prefix("st.") {
            let (space, bytes, _) = access(rest)?;
            let [address, from] = operands else { return Err("two operands expected".into()) };
            let (address, offset) = self.address(address)?;
            return Ok(Operation::Store { space, bytes, from: self.several(from)?, address, offset });
        }
        if let Some(kind) = opcode.strip_prefix("shfl.sync.") {
            let kind = match kind {
                "down.b32" => Shuffle::Down,
                "idx.b32" => Shuffle::Index,
                other => return Err(format!("unknown shuffle {other}")),
            };
            let [to, from, lane, clamp, members] = operands else { return Err("five operands expected".into()) };
            let to = to.split('|').next().unwrap_or_default();
            return Ok(Operation::Shuffle {
                kind,
                to: self.operand(to)?,
                from: self.operand(from)?,
                lane: self.operand(lane)?,
                clamp: self.operand(clamp)?,
                members: self.operand(members)?,
            });
        }
        let action = arithmetic::action(opcode).ok_or("unknown instruction")?;
        let (to, from) = operands.split_first().ok_or("no operands")?;
        let expected = match action {
            Action::One(_) => 1,
            Action::Two(_) => 2,
            Action::Three(_) => 3,
            Action::Four(_) => 4,
        };
        if from.len() != expected {
            return Err(format!("{expected} operands expected"));
        }
        let mut places = [0; 4];
        for (place, operand) in places.iter_mut().zip(from) {
            *place = self.operand(operand)?;
        }
        Ok(Operation::Compute { action, to: self.operand(to)?, from: places })
    }

    /// `%f1` or `{%f1, %f2, …}`.
    fn several(&mut self, text: &str) -> Result<Vec<Register>, String> {
        let inner = text.trim_start_matches('{').trim_end_matches('}');
        inner.split(',').map(|name| self.operand(name.trim())).collect()
    }
}

/// The space, the bytes of one value and how many of `global.nc.v4.f32`.
fn access(text: &str) -> Result<(Space, usize, usize), String> {
    let mut parts: Vec<&str> = text.split('.').collect();
    let bytes = bytes_of(parts.pop().unwrap_or_default())?;
    match parts.as_slice() {
        ["global"] | ["global", "nc"] => Ok((Space::Global, bytes, 1)),
        ["global", "v4"] | ["global", "nc", "v4"] => Ok((Space::Global, bytes, 4)),
        ["shared"] => Ok((Space::Shared, bytes, 1)),
        ["shared", "v4"] => Ok((Space::Shared, bytes, 4)),
        _ => Err(format!("unknown access {text}")),
    }
}

/// Splits at commas outside braces.
fn split(operands: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in operands.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(operands[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    if !operands[start..].trim().is_empty() {
        parts.push(operands[start..].trim());
    }
    parts
}
