// Parses each line of standard input as PromQL, by the parser that Prometheus itself has; says of the first that is none what is
// wrong with it, and ends with 1.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	log.SetFlags(0)
	lines, count := bufio.NewScanner(os.Stdin), 0
	for lines.Scan() {
		if _, err := parser.ParseExpr(lines.Text()); err != nil {
			log.Fatalf("%s: %v", lines.Text(), err)
		}
		count++
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
	fmt.Println(count)
}
