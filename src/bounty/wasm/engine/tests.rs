use super::*;

/// Answers an item with itself.
const ECHO: &str = r#"(module
  (memory (export "memory") 1)
  (func (export "run") (param $at i32) (param $length i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32)) (i64.extend_i32_u (local.get $length)))))"#;

const LIMITS: ModuleLimits = ModuleLimits { fuel: 10_000_000, memory_bytes: 1 << 20, output_bytes: 1_000 };

fn with_limits(text: &str, items: &[&str], limits: ModuleLimits) -> Outcome {
    let items = items.iter().map(|item| (*item).to_owned()).collect();
    run(&Task { module: text.as_bytes().to_vec(), items, limits }).expect("enough memory here")
}

/// A module whose `run` is this, on two items.
fn body(body: &str) -> String {
    format!(
        r#"(module (memory (export "memory") 1) (data (i32.const 8) "one\0atwo\ff") (global $calls (mut i32) (i32.const 0))
  (func $run (export "run") (param $at i32) (param $length i32) (result i64) {body}))"#
    )
}

fn failure(text: &str) -> (ModuleFailure, String) {
    match with_limits(text, &["a", "b"], LIMITS) {
        Outcome::Failed { failure, detail } => (failure, detail),
        answered @ Outcome::Answered { .. } => panic!("{answered:?}"),
    }
}

/// The failure, which names the first item.
fn fails(text: &str) -> ModuleFailure {
    let (failure, detail) = failure(text);
    assert!(detail.starts_with("item 1: "), "{detail}");
    failure
}

fn answered(text: &str, items: &[&str]) -> (Vec<String>, u64) {
    match with_limits(text, items, LIMITS) {
        Outcome::Answered { answers, fuel } => (answers, fuel),
        failed @ Outcome::Failed { .. } => panic!("{failed:?}"),
    }
}

#[test]
fn items_are_answered_in_order_and_fuel_adds_up() {
    let (answers, fuel) = answered(ECHO, &["one", "", "zwölf", "one"]);
    assert_eq!(answers, ["one", "", "zwölf", "one"]);
    let one = answered(ECHO, &["one"]).1;
    let empty = answered(ECHO, &[""]).1;
    // Two pages where there is an item to hold, one where there is none.
    assert_eq!(one - empty, 1_024);
    assert_eq!(fuel, 2 * one + empty + answered(ECHO, &["zwölf"]).1);
    assert_eq!(fuel, answered(ECHO, &["zwölf", "one", "one", ""]).1, "whatever their order");
}

#[test]
fn a_fuel_count_stays_what_it_was() {
    // Another count here is another meter: FUEL_METER has to change, and whoever posted a bounty has to know.
    assert_eq!(answered(ECHO, &["one"]).1, 2_048 + 8);
    let counts_down = body(
        "(local $n i32) (local.set $n (i32.const 1000)) (loop $again (local.set $n (i32.sub (local.get $n) (i32.const 1)))
         (br_if $again (local.get $n))) (i64.const 0)",
    );
    assert_eq!(answered(&counts_down, &["one"]).1, 2_048 + 7_004);
}

#[test]
fn bytes_are_a_module_as_text_is() {
    let empty = b"\0asm\x01\0\0\0";
    let outcome =
        run(&Task { module: empty.to_vec(), items: vec!["a".into()], limits: LIMITS }).expect("enough memory");
    let Outcome::Failed { failure, detail } = outcome else { panic!("it exports nothing") };
    assert_eq!((failure, detail.as_str()), (ModuleFailure::Unusable, "it exports no memory \"memory\""));
}

#[test]
fn no_item_sees_another() {
    let counts = body(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (i32.store8 (i32.const 0) (i32.add (i32.load8_u (i32.const 0)) (i32.add (global.get $calls) (i32.const 48))))
         (i64.const 1)",
    );
    assert_eq!(answered(&counts, &["a", "b", "c"]).0, ["1", "1", "1"]);
}

#[test]
fn what_is_no_module_is_unusable() {
    for (text, why) in [
        ("", "not a module: expected"),
        ("(module)", "it exports no memory"),
        ("print('hello')", "not a module: expected"),
        ("(module (func (result i32)))", "not a module: "),
        (
            r#"(module (import "wasi_snapshot_preview1" "fd_write" (func)))"#,
            "it imports \"wasi_snapshot_preview1.fd_write\"",
        ),
        (r#"(module (import "a" "memory" (memory 1)) (export "memory" (memory 0)))"#, "it imports \"a.memory\""),
        (r#"(module (func (export "run") (param i32 i32) (result i64) (i64.const 0)))"#, "it exports no memory"),
        (r#"(module (memory (export "memory") 1))"#, "it exports no function"),
        (r#"(module (memory (export "memory") 1) (func (export "run")))"#, "it exports no function"),
        (
            r#"(module (memory (export "memory") 1) (func (export "run") (param i64 i32) (result i64) (i64.const 0)))"#,
            "it exports no function",
        ),
        (r#"(module (memory (export "memory") i64 1))"#, "not a module: "),
        (r#"(module (memory (export "memory") 1) (memory 1))"#, "not a module: "),
    ] {
        let (failure, detail) = failure(text);
        assert_eq!(failure, ModuleFailure::Unusable, "{text}");
        assert!(detail.starts_with(why), "{text}: {detail}");
        assert!(detail.len() < 300 && !detail.contains('\n'), "{detail}");
    }
    let long = format!("{ECHO}{}", " ".repeat(MOST_MODULE_BYTES));
    assert_eq!(failure(&long).0, ModuleFailure::Unusable);
    let nested = format!("(module {}", "(func (block ".repeat(100_000));
    assert_eq!(failure(&nested).0, ModuleFailure::Unusable);
    let functions = format!("(module {})", "(func)".repeat(20_000));
    assert_eq!(failure(&functions).0, ModuleFailure::Unusable);
}

#[test]
fn an_endless_loop_is_out_of_fuel() {
    assert_eq!(fails(&body("(loop $again (br $again)) (i64.const 0)")), ModuleFailure::Fuel);
    assert_eq!(
        fails(&body(
            "(loop $again (memory.fill (i32.const 0) (i32.const 0) (i32.const 65536)) (br $again)) (i64.const 0)"
        )),
        ModuleFailure::Fuel
    );
    let start = body("(i64.const 0)").replace("(module ", "(module (start $s) (func $s (loop $again (br $again))) ");
    assert_eq!(fails(&start), ModuleFailure::Fuel);
}

#[test]
fn fuel_is_for_all_items_together() {
    let one = answered(ECHO, &["a"]).1;
    let limits = ModuleLimits { fuel: 2 * one, ..LIMITS };
    assert!(matches!(with_limits(ECHO, &["a", "b"], limits), Outcome::Answered { fuel, .. } if fuel == 2 * one));
    let Outcome::Failed { failure, detail } = with_limits(ECHO, &["a", "b", "c"], limits) else { panic!("too much") };
    assert_eq!((failure, detail.as_str()), (ModuleFailure::Fuel, "item 3: out of fuel before its call"));
}

#[test]
fn what_a_module_runs_before_its_call_counts() {
    let start = ECHO.replace("(module", "(module (start $s) (func $s (local i32) (local.set 0 (i32.const 7)))");
    assert!(answered(&start, &["a"]).1 > answered(ECHO, &["a"]).1);
    let memory = ECHO.replace("\"memory\") 1", "\"memory\") 9");
    assert_eq!(answered(&memory, &["a"]).1, answered(ECHO, &["a"]).1 + 8 * 1_024);
}

#[test]
fn a_trap_is_a_crash() {
    for trap in [
        "unreachable",
        "(i64.extend_i32_u (i32.div_u (local.get $at) (i32.const 0)))",
        "(i64.load (i32.const -1))",
        "(call $run (local.get $at) (local.get $length))",
        "(memory.copy (i32.const 0) (i32.const 131073) (i32.const 1)) (i64.const 0)",
    ] {
        assert_eq!(fails(&body(trap)), ModuleFailure::Crashed, "{trap}");
    }
    let deep = failure(&body("(call $run (local.get $at) (local.get $length))")).1;
    assert_eq!(deep, "item 1: calls deeper than 10000, or with too many values");
}

#[test]
fn memory_ends_at_its_limit_and_not_at_the_machines() {
    let bomb = "(loop $again (drop (memory.grow (i32.const 1))) (br $again)) (i64.const 0)";
    assert_eq!(fails(&body(bomb)), ModuleFailure::Memory);
    assert_eq!(fails(&body("(drop (memory.grow (i32.const 60000))) (i64.const 0)")), ModuleFailure::Memory);
    for pages in ["17", "65536"] {
        assert_eq!(fails(&ECHO.replace("\"memory\") 1", &format!("\"memory\") {pages}"))), ModuleFailure::Memory);
    }
    // No room for the item, by the limit or by what it declares.
    assert_eq!(fails(&ECHO.replace("\"memory\") 1", "\"memory\") 16")), ModuleFailure::Memory);
    assert_eq!(fails(&ECHO.replace("\"memory\") 1", "\"memory\") 1 1")), ModuleFailure::Crashed);
    assert_eq!(fails(&ECHO.replace("(module", "(module (table 20000 funcref)")), ModuleFailure::Memory);
    // Growing past what it declares is told to it, as anywhere.
    let asks = body("(i64.shl (i64.extend_i32_u (i32.eq (memory.grow (i32.const 9)) (i32.const -1))) (i64.const 35))");
    let asks = asks.replace("\"memory\") 1", "\"memory\") 1 4");
    assert_eq!(answered(&asks, &["a"]).0, [""]);
}

#[test]
fn answers_have_their_limit_together() {
    let limits = ModuleLimits { output_bytes: 8, ..LIMITS };
    assert!(matches!(with_limits(ECHO, &["abc", "def"], limits), Outcome::Answered { .. }));
    for items in [["abc", "defg"], ["abcdefgh", ""]] {
        let outcome = with_limits(ECHO, &items, limits);
        assert!(matches!(outcome, Outcome::Failed { failure: ModuleFailure::Output, .. }), "{outcome:?}");
    }
}

#[test]
fn an_answer_is_one_line_of_text_in_the_memory() {
    for (answer, why) in [
        // Place and length of what `body` keeps at 8: "one\ntwo\xff".
        ("(i64.const 0x0000000800000007)", "item 1: an answer of more than one line"),
        ("(i64.const 0x0000000c00000004)", "item 1: an answer that is not UTF-8"),
        ("(i64.const 0x0001ffff00000002)", "item 1: an answer of 2 bytes at 131071, outside of its memory"),
        ("(i64.const 0xffffffff00000010)", "item 1: an answer of 16 bytes at 4294967295, outside of its memory"),
    ] {
        assert_eq!(failure(&body(answer)), (ModuleFailure::Malformed, why.to_owned()));
    }
    assert_eq!(fails(&body("(i64.const -1)")), ModuleFailure::Output);
    assert_eq!(answered(&body("(i64.const 0x0000000800000003)"), &["a"]).0, ["one"]);
    assert_eq!(answered(&body("(i64.const 0x0002000000000000)"), &["a"]).0, [""], "nothing, at the very end");
}

#[test]
fn nans_have_the_same_bits_everywhere() {
    // Its first seven bits: some machines set the first of them.
    let bits = "(i64.shr_u (i64.reinterpret_f64 (f64.div (f64.const -0) (f64.const 0))) (i64.const 57))";
    let tells = body(&format!("(i64.store8 (i32.const 0) {bits}) (i64.const 1)"));
    assert_eq!(answered(&tells, &["a"]).0, ["?"]);
}
