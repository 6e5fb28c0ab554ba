module fixed_upstream

go 1.21
