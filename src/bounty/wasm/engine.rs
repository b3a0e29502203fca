//! Runs a module in wasmi and counts its fuel. Owns what a module may be and how it is called; touches nothing outside.
//!
//! The same module, items and limits have the same outcome everywhere: no imports, no clock, NaNs with the same bits, and
//! nothing kept from one item to the next. What this machine lacks (memory) is an error, never an outcome.

use wasmi::{
    CompilationMode, Config, EnforcedLimits, Engine, Error, ExternType, Instance, Memory, Module, ResourceLimiter,
    Store, TrapCode, TypedFunc, ValType,
};
use wasmi_core::{LimiterError, MemoryError, TableError};

use super::{MOST_MODULE_BYTES, ModuleFailure, ModuleLimits, Outcome, Task};

/// What a module is called by: (place, length) of an item to (place << 32 | length) of its answer.
const RUN: &str = "run";
/// Its memory.
const MEMORY: &str = "memory";

/// Deepest calls, and the most that their values take.
const MOST_CALLS: usize = 10_000;
const STACK_BYTES: usize = 1 << 20;
/// Most entries of its table.
const MOST_TABLE_ENTRIES: usize = 10_000;
/// Of memory, for one fuel: what copying costs, too.
const BYTES_A_FUEL: u64 = 64;
const PAGE_BYTES: u64 = 65_536;

/// There was not enough memory on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this machine has too little memory for a module that may have {0} bytes")]
pub(super) struct Starved(u64);

/// Why a module is at its end.
enum Stop {
    Failed(ModuleFailure, String),
    Starved,
}

fn fail<T>(failure: ModuleFailure, detail: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Failed(failure, detail.into()))
}

/// Answers every item.
pub(super) fn run(task: &Task) -> Result<Outcome, Starved> {
    match answer_all(task) {
        Ok((answers, fuel)) => Ok(Outcome::Answered { answers, fuel }),
        Err(Stop::Failed(failure, detail)) => Ok(Outcome::Failed { failure, detail }),
        Err(Stop::Starved) => Err(Starved(task.limits.memory_bytes)),
    }
}

fn answer_all(task: &Task) -> Result<(Vec<String>, u64), Stop> {
    let module = read(&task.module)?;
    let (mut left, mut output_left) = (task.limits.fuel, task.limits.output_bytes);
    let mut answers = Vec::with_capacity(task.items.len());
    for (place, item) in task.items.iter().enumerate() {
        let answered = Call::new(&module, left, &task.limits).and_then(|call| call.answer(item, output_left));
        let (answer, fuel_left) = match answered {
            Ok(answered) => answered,
            Err(Stop::Failed(failure, why)) => return fail(failure, format!("item {}: {why}", place + 1)),
            Err(Stop::Starved) => return Err(Stop::Starved),
        };
        left = fuel_left;
        output_left -= answer.len() as u64 + 1;
        answers.push(answer);
    }
    Ok((answers, task.limits.fuel - left))
}

/// A module that can be called.
fn read(bytes: &[u8]) -> Result<Module, Stop> {
    if bytes.len() > MOST_MODULE_BYTES {
        return fail(ModuleFailure::Unusable, format!("the module has more than {MOST_MODULE_BYTES} bytes"));
    }
    let module = match Module::new(&Engine::new(&config()), bytes) {
        Ok(module) => module,
        Err(error) => return fail(ModuleFailure::Unusable, format!("not a module: {}", one_line(&error))),
    };
    if let Some(import) = module.imports().next() {
        let name = format!("{}.{}", import.module(), import.name());
        return fail(ModuleFailure::Unusable, format!("it imports {name:?}: there is nothing to import"));
    }
    if !matches!(module.get_export(MEMORY), Some(ExternType::Memory(_))) {
        return fail(ModuleFailure::Unusable, "it exports no memory \"memory\"");
    }
    match module.get_export(RUN) {
        Some(ExternType::Func(found))
            if found.params() == [ValType::I32, ValType::I32] && found.results() == [ValType::I64] => {}
        Some(_) | None => {
            return fail(ModuleFailure::Unusable, "it exports no function \"run\" from (i32, i32) to i64");
        }
    }
    Ok(module)
}

/// WebAssembly 1.0 with what every compiler emits by now; the smallest engine that can be had.
fn config() -> Config {
    let mut config = Config::default();
    config
        .consume_fuel(true)
        // Translated before anything is counted: what a module costs doesn't depend on which of its parts are reached.
        .compilation_mode(CompilationMode::Eager)
        .enforced_limits(EnforcedLimits::strict())
        .ignore_custom_sections(true)
        .set_max_recursion_depth(MOST_CALLS)
        .set_max_stack_height(STACK_BYTES)
        .set_max_cached_stacks(1)
        .wasm_multi_memory(false)
        .wasm_reference_types(false)
        .wasm_tail_call(false)
        .wasm_extended_const(false)
        .wasm_custom_page_sizes(false)
        .wasm_wide_arithmetic(false);
    config
}

/// One item's instance.
struct Call {
    store: Store<Holder>,
    memory: Memory,
    run: TypedFunc<(i32, i32), i64>,
}

impl Call {
    /// An instance with this much fuel. What it runs at its start counts.
    fn new(module: &Module, fuel: u64, limits: &ModuleLimits) -> Result<Self, Stop> {
        let mut store = Store::new(module.engine(), Holder::new(limits.memory_bytes));
        store.limiter(|holder| holder);
        store.set_fuel(fuel).or_else(|error| fail(ModuleFailure::Unusable, one_line(&error)))?;
        let instance = Instance::new(&mut store, module, &[]).map_err(|error| ended(&store, &error))?;
        let memory = instance.get_memory(&store, MEMORY);
        let run = instance.get_typed_func(&store, RUN).ok();
        match (memory, run) {
            (Some(memory), Some(run)) => Ok(Self { store, memory, run }),
            (None, _) | (_, None) => fail(ModuleFailure::Unusable, "its exports are gone"),
        }
    }

    /// The answer, and the fuel that is left.
    fn answer(mut self, item: &str, output_left: u64) -> Result<(String, u64), Stop> {
        let at = self.place(item)?;
        let pay = self.memory.data_size(&self.store) as u64 / BYTES_A_FUEL;
        match self.fuel()?.checked_sub(pay).map(|left| self.store.set_fuel(left)) {
            Some(Ok(())) => {}
            Some(Err(_)) | None => return fail(ModuleFailure::Fuel, "out of fuel before its call"),
        }
        let called = self.run.call(&mut self.store, at);
        let packed = called.map_err(|error| ended(&self.store, &error))?.cast_unsigned();
        let (start, length) = (packed >> 32, packed & u64::from(u32::MAX));
        if length >= output_left {
            return fail(
                ModuleFailure::Output,
                format!("an answer of {length} bytes, and all of them may have no more than {output_left} left"),
            );
        }
        let range = usize::try_from(start).ok().zip(usize::try_from(start + length).ok());
        let found = range.and_then(|(start, end)| self.memory.data(&self.store).get(start..end));
        let Some(bytes) = found else {
            return fail(
                ModuleFailure::Malformed,
                format!("an answer of {length} bytes at {start}, outside of its memory"),
            );
        };
        match std::str::from_utf8(bytes) {
            Ok(answer) if !answer.contains('\n') => Ok((answer.to_owned(), self.fuel()?)),
            Ok(_) => fail(ModuleFailure::Malformed, "an answer of more than one line"),
            Err(_) => fail(ModuleFailure::Malformed, "an answer that is not UTF-8"),
        }
    }

    /// Puts the item behind the memory that the module has, and says where it is.
    fn place(&mut self, item: &str) -> Result<(i32, i32), Stop> {
        let at = self.memory.data_size(&self.store);
        let pages = (item.len() as u64).div_ceil(PAGE_BYTES);
        if pages > 0 {
            let grown = self.memory.grow(&mut self.store, pages);
            if grown.is_err() {
                return match self.store.data().refused {
                    None => {
                        fail(ModuleFailure::Crashed, "its memory declares a maximum that leaves no room for the item")
                    }
                    Some(refused) => Err(refused.stop()),
                };
            }
        }
        let (Ok(start), Ok(length)) = (u32::try_from(at), u32::try_from(item.len())) else {
            return fail(ModuleFailure::Crashed, "its memory leaves no room for the item");
        };
        match self.memory.write(&mut self.store, at, item.as_bytes()) {
            Ok(()) => Ok((start.cast_signed(), length.cast_signed())),
            Err(error) => fail(ModuleFailure::Crashed, error.to_string()),
        }
    }

    fn fuel(&self) -> Result<u64, Stop> {
        self.store.get_fuel().or_else(|error| fail(ModuleFailure::Unusable, one_line(&error)))
    }
}

/// Holds an instance to its memory, and remembers what it was refused: a module is told of no failure that another
/// machine would not have.
struct Holder {
    memory_bytes: u64,
    refused: Option<Refused>,
}

#[derive(Clone, Copy)]
enum Refused {
    OverLimit,
    NotHere,
}

impl Refused {
    fn stop(self) -> Stop {
        match self {
            Refused::OverLimit => {
                Stop::Failed(ModuleFailure::Memory, "it wanted more memory than it may have".to_owned())
            }
            Refused::NotHere => Stop::Starved,
        }
    }
}

impl Holder {
    fn new(memory_bytes: u64) -> Self {
        Self { memory_bytes, refused: None }
    }

    fn refuse<T>(&mut self, refused: Refused) -> Result<T, LimiterError> {
        self.refused = Some(refused);
        Err(LimiterError::ResourceLimiterDeniedAllocation)
    }
}

impl ResourceLimiter for Holder {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Result<bool, LimiterError> {
        // Beyond what it has declared itself, it is told -1, as anywhere.
        if maximum.is_some_and(|maximum| desired > maximum) {
            Ok(false)
        } else if desired as u64 > self.memory_bytes {
            self.refuse(Refused::OverLimit)
        } else {
            Ok(true)
        }
    }

    fn memory_grow_failed(&mut self, error: &MemoryError) -> Result<(), LimiterError> {
        if matches!(error, MemoryError::OutOfSystemMemory) { self.refuse(Refused::NotHere) } else { Ok(()) }
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> Result<bool, LimiterError> {
        if desired > MOST_TABLE_ENTRIES { self.refuse(Refused::OverLimit) } else { Ok(true) }
    }

    fn table_grow_failed(&mut self, error: &TableError) -> Result<(), LimiterError> {
        if matches!(error, TableError::OutOfSystemMemory) { self.refuse(Refused::NotHere) } else { Ok(()) }
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}

/// How an instance ended.
fn ended(store: &Store<Holder>, error: &Error) -> Stop {
    if let Some(refused) = store.data().refused {
        return refused.stop();
    }
    match error.as_trap_code() {
        Some(TrapCode::OutOfFuel) => Stop::Failed(ModuleFailure::Fuel, "out of fuel".to_owned()),
        Some(TrapCode::OutOfSystemMemory) => Stop::Starved,
        Some(TrapCode::StackOverflow) => {
            Stop::Failed(ModuleFailure::Crashed, format!("calls deeper than {MOST_CALLS}, or with too many values"))
        }
        Some(_) | None => Stop::Failed(ModuleFailure::Crashed, one_line(error)),
    }
}

/// An error as one short line: a text's errors show its lines.
fn one_line(error: &Error) -> String {
    let text = error.to_string();
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests;
