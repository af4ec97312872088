;; entry: f
;; ends: trap: unreachable executed
(module 
  (func (export "f") (result i32) unreachable))
