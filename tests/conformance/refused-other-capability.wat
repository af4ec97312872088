;; capability: network
;; error: capability `network` is not granted here
(module (func (export "_start")))
