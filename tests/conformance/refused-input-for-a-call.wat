;; entry: f
;; stdin: x
;; error: arguments: a call has no standard input
(module (func (export "f")))
