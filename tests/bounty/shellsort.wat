  ;; Bytes between the keys that are compared, largest first.
  (data (i32.const 0) "\b4\04\00\00\e4\01\00\00\28\01\00\00\98\00\00\00\44\00\00\00\28\00\00\00\10\00\00\00\04\00\00\00")

  (func $sort (param $start i32) (param $end i32)
    (local $which i32) (local $gap i32) (local $first i32)
    (local $at i32) (local $hole i32) (local $key i32) (local $before i32)
    (loop $gaps
      (local.set $gap (i32.load (local.get $which)))
      (local.set $first (i32.add (local.get $start) (local.get $gap)))
      (local.set $at (local.get $first))
      (block $done
        (loop $next
          (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
          (local.set $key (i32.load (local.get $at)))
          (local.set $hole (local.get $at))
          (block $placed
            (loop $move
              (br_if $placed (i32.lt_u (local.get $hole) (local.get $first)))
              (local.set $before (i32.load (i32.sub (local.get $hole) (local.get $gap))))
              (br_if $placed (i32.le_u (local.get $before) (local.get $key)))
              (i32.store (local.get $hole) (local.get $before))
              (local.set $hole (i32.sub (local.get $hole) (local.get $gap)))
              (br $move)))
          (i32.store (local.get $hole) (local.get $key))
          (local.set $at (i32.add (local.get $at) (i32.const 4)))
          (br $next)))
      (local.set $which (i32.add (local.get $which) (i32.const 4)))
      (br_if $gaps (i32.lt_u (local.get $which) (i32.const 32)))))

