;; entry: f
;; ends: trap: unreachable executed
;; answer: 2faf574cccda6209e7ad19440f66759d0965b54128a1550a0eae2e1479b2497f
(module (func $s unreachable) (start $s) (func (export "f")))
