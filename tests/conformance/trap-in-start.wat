;; entry: f
;; ends: trap: unreachable executed
(module (func $s unreachable) (start $s) (func (export "f")))
