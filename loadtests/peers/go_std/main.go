// Go's own "hello", as the documentation of net/http has it.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain") // without it, Go guesses it for each answer
		io.WriteString(w, "Hello World!\n")
	})
	if path := os.Getenv("PAGE"); path != "" {
		page, err := os.ReadFile(path)
		if err != nil {
			log.Fatal(err)
		}
		http.HandleFunc("/page", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(page)
		})
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
