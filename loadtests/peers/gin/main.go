// Gin's "hello", in release mode and without its logger, as its documentation advises.
package main

import (
	"log"
	"net/http"
	"os"

	"github.com/gin-gonic/gin"
)

func main() {
	gin.SetMode(gin.ReleaseMode)
	router := gin.New()
	router.Use(gin.Recovery())
	router.GET("/", func(c *gin.Context) {
		c.String(http.StatusOK, "Hello World!\n")
	})
	if path := os.Getenv("PAGE"); path != "" {
		page, err := os.ReadFile(path)
		if err != nil {
			log.Fatal(err)
		}
		router.GET("/page", func(c *gin.Context) {
			c.Data(http.StatusOK, "application/json", page)
		})
	}
	log.Fatal(router.Run("127.0.0.1:" + os.Getenv("PORT")))
}
