;; entry: f
;; error: depth of nested loops is 25, the bound is 24
(module (func (export "f")
  loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop loop 
  end end end end end end end end end end end end end end end end end end end end end end end end end ))
