;; entry: f
;; ends: trap: indirect call to null
;; answer: 332739fbfd84fe121f1b70fd7199f813037cb0efea16e13338d8bfca12ca07ea
(module (table 1 funcref)
  (func (export "f") (result i32) (call_indirect (result i32) (i32.const 0))))
