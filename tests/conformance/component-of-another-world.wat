;; feature: component
;; error: it imports `wasi:cli::environment@0.2.0`, which no host offers
(component (import "wasi:cli/environment@0.2.0" (instance)))
