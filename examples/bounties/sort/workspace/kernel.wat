;; Sorts keys of four letters, in place: insertion sort.
(module
  (memory (export "memory") 1)

  ;; Turns the bytes of each key around, so that numbers compare as text does.
  (func $swap (param $at i32) (param $end i32)
    (local $key i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $key (i32.load (local.get $at)))
        (i32.store (local.get $at)
          (i32.or
            (i32.and (i32.rotl (local.get $key) (i32.const 8)) (i32.const 0x00ff00ff))
            (i32.and (i32.rotr (local.get $key) (i32.const 8)) (i32.const 0xff00ff00))))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next))))

  (func $sort (param $start i32) (param $end i32)
    (local $at i32) (local $hole i32) (local $key i32) (local $before i32)
    (local.set $at (i32.add (local.get $start) (i32.const 4)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (local.set $key (i32.load (local.get $at)))
        (local.set $hole (local.get $at))
        (block $placed
          (loop $move
            (br_if $placed (i32.le_u (local.get $hole) (local.get $start)))
            (local.set $before (i32.load (i32.sub (local.get $hole) (i32.const 4))))
            (br_if $placed (i32.le_u (local.get $before) (local.get $key)))
            (i32.store (local.get $hole) (local.get $before))
            (local.set $hole (i32.sub (local.get $hole) (i32.const 4)))
            (br $move)))
        (i32.store (local.get $hole) (local.get $key))
        (local.set $at (i32.add (local.get $at) (i32.const 4)))
        (br $next))))

  (func (export "run") (param $at i32) (param $length i32) (result i64)
    (local $end i32)
    (local.set $end (i32.add (local.get $at) (local.get $length)))
    (call $swap (local.get $at) (local.get $end))
    (call $sort (local.get $at) (local.get $end))
    (call $swap (local.get $at) (local.get $end))
    (i64.or
      (i64.shl (i64.extend_i32_u (local.get $at)) (i64.const 32))
      (i64.extend_i32_u (local.get $length)))))
