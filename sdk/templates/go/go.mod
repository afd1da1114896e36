module boards/NAME

go 1.26
