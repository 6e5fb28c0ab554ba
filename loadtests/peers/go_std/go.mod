module go_std

go 1.21
