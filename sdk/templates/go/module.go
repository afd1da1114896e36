// NAME: adds up the bytes of each event, and publishes the sum as text on readings/sum.
package main

import (
	"strconv"

	"boards/NAME/device"
)

func init() {
	device.OnEvent(func(topic string, payload []byte) error {
		sum := 0
		for _, each := range payload {
			sum += int(each)
		}
		return device.Publish("readings/sum", []byte(strconv.Itoa(sum)))
	})
}

func main() {}
