;; NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum.
(module
  (import "device:module/messaging@0.1.0" "publish" (func $publish (param i32 i32 i32 i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 16) "readings/sum")
  (data (i32.const 32) "the sum could not be published")
  ;; 64: result<_, string>; 80: result of publish; 84 to 94: the text; from 1024 on: what the host passes in
  (global $used (mut i32) (i32.const 1024))

  (func (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at
      (i32.and (i32.add (global.get $used) (i32.sub (local.get $align) (i32.const 1))) (i32.sub (i32.const 0) (local.get $align))))
    (if (i32.or (i32.gt_u (local.get $size) (i32.const 60000))
                (i32.gt_u (i32.add (local.get $at) (local.get $size)) (i32.const 65536)))
      (then unreachable))
    (global.set $used (i32.add (local.get $at) (local.get $size)))
    (local.get $at))

  (func (export "device:module/events@0.1.0#handle")
    (param $topic i32) (param $topic_size i32) (param $payload i32) (param $size i32) (result i32)
    (local $sum i32) (local $end i32) (local $at i32)
    (local.set $end (i32.add (local.get $payload) (local.get $size)))
    (block $added
      (loop $more
        (br_if $added (i32.eq (local.get $payload) (local.get $end)))
        (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $payload))))
        (local.set $payload (i32.add (local.get $payload) (i32.const 1)))
        (br $more)))
    (local.set $at (i32.const 94))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.rem_u (local.get $sum) (i32.const 10))))
      (br_if $digit (local.tee $sum (i32.div_u (local.get $sum) (i32.const 10)))))
    (call $publish
      (i32.const 16) (i32.const 12) (local.get $at) (i32.sub (i32.const 94) (local.get $at)) (i32.const 80))
    (i32.store8 (i32.const 64) (i32.load8_u (i32.const 80)))
    (i32.store (i32.const 68) (i32.const 32))
    (i32.store (i32.const 72) (i32.const 30))
    (i32.const 64))

  (func (export "cabi_post_device:module/events@0.1.0#handle") (param i32)
    (global.set $used (i32.const 1024))))
